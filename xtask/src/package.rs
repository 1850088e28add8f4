//! `cargo xtask package`: Debian packages of the daemons and of kubectl's plugins, made by dpkg-deb from a tree that is laid out here.
//!
//! In: the binaries, what `xtask/package` holds of each package, the settings that a daemon prints of itself. Out: target/packages.

mod needs;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cluster::{self, Profile};
use crate::exec::{self, output, root, step};
use crate::images;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Who is to be asked about them: dpkg wants somebody.
const MAINTAINER: &str = "Oarlock <oarlock@localhost>";

/// How packages are made.
#[derive(Debug, Args)]
pub(crate) struct PackageOptions {
    /// How the binaries are built.
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
}

struct Package {
    name: &'static str,
    summary: &'static str,
    description: &'static str,
    binaries: &'static [&'static str],
    /// Beside what the binaries need.
    depends: &'static [&'static str],
    recommends: &'static str,
    /// The daemon's file of settings.
    settings: Option<&'static str>,
}

const PACKAGES: [Package; 3] = [
    Package {
        name: "oarlock-control",
        summary: "the control plane of Oarlock, a cluster orchestrator with Kubernetes' API",
        description: "The Kubernetes API, its controllers and scheduler, and the sessions of nodes, in one daemon, on a store of its own or etcd.",
        binaries: &["oarlock-control"],
        depends: &["init-system-helpers", "systemd | systemd-standalone-sysusers"],
        recommends: "oarlock-kubectl",
        settings: Some("control.env"),
    },
    Package {
        name: "oarlock-agent",
        summary: "the node agent of Oarlock, a cluster orchestrator with Kubernetes' API",
        description: "Runs the pods of a node through Docker, gives them a network, and answers Services in eBPF. Pods and connections do not notice its restart.",
        binaries: &["oarlock-agent"],
        depends: &["init-system-helpers", "docker.io | docker-ce | moby-engine"],
        recommends: "",
        settings: Some("agent.env"),
    },
    Package {
        name: "oarlock-kubectl",
        summary: "kubectl's plugins of Oarlock",
        description: "kubectl oarlock looks at a cluster's dataplane and tells what holds things up; kubectl rolling-update replaces ReplicationControllers.",
        binaries: &["kubectl-oarlock", "kubectl-rolling_update"],
        depends: &[],
        recommends: "kubernetes-client",
        settings: None,
    },
];

/// Builds the daemons, then a package of each.
pub(crate) fn package(options: &PackageOptions) -> Result<()> {
    cluster::build(options.profile)?;
    let folder = exec::target().join("packages");
    let _ = fs::remove_dir_all(&folder);
    let architecture = output("dpkg", &["--print-architecture"]).context("packages are made on Debian")?;
    for package in &PACKAGES {
        step(&format!("packing {}", package.name), || {
            let tree = folder.join("trees").join(package.name);
            lay_out(package, &tree, options.profile)?;
            control_files(package, &tree, architecture.trim())?;
            let file = folder.join(format!("{}_{VERSION}_{}.deb", package.name, architecture.trim()));
            // Packing hard takes longer than building for tests.
            let how = if options.profile == Profile::Release { "-Zxz" } else { "-Znone" };
            let (tree, file) = (tree.display().to_string(), file.display().to_string());
            output("dpkg-deb", &["--root-owner-group", how, "--build", &tree, &file])?;
            println!("    {file}");
            // As large as the package again.
            Ok(fs::remove_dir_all(tree)?)
        })?;
    }
    Ok(())
}

/// The files as they will be on a machine.
fn lay_out(package: &Package, tree: &Path, profile: Profile) -> Result<()> {
    for binary in package.binaries {
        install(&profile.daemon(binary), &tree.join("usr/bin").join(binary), 0o755)?;
    }
    let sources = root().join("xtask/package").join(package.name);
    let unit = format!("{}.service", package.name);
    let from_sources = [
        (unit.clone(), format!("usr/lib/systemd/system/{unit}")),
        ("sysusers.conf".to_owned(), format!("usr/lib/sysusers.d/{}.conf", package.name)),
    ];
    for (source, target) in from_sources {
        if sources.join(&source).exists() {
            install(&sources.join(&source), &tree.join(target), 0o644)?;
        }
    }
    let docs = tree.join("usr/share/doc").join(package.name);
    write(&docs.join("copyright"), &copyright(), 0o644)?;
    if let Some(settings) = package.settings {
        let daemon = profile.daemon(package.name).display().to_string();
        write(&tree.join("etc/oarlock").join(settings), &output(&daemon, &["settings"])?, 0o644)?;
        install(&root().join("docs/howto/run-on-debian.md"), &docs.join("README.md"), 0o644)?;
    }
    if package.name == "oarlock-agent" {
        install(&images::pause()?, &tree.join("usr/share/oarlock/pause.tar"), 0o644)?;
    }
    Ok(())
}

/// What dpkg is told.
fn control_files(package: &Package, tree: &Path, architecture: &str) -> Result<()> {
    let mut depends =
        needs::of(&package.binaries.iter().map(|b| tree.join("usr/bin").join(b)).collect::<Vec<_>>())?;
    depends.extend(package.depends.iter().map(|name| (*name).to_owned()));
    let recommends = match package.recommends {
        "" => String::new(),
        names => format!("Recommends: {names}\n"),
    };
    let size = output("du", &["-sk", "--apparent-size", &tree.display().to_string()])?;
    let size = size.split_whitespace().next().unwrap_or_default();
    let control = format!(
        "Package: {}\nVersion: {VERSION}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\nInstalled-Size: {size}\n\
         Depends: {}\n{recommends}Section: admin\nPriority: optional\nDescription: {}\n{}",
        package.name,
        depends.join(", "),
        package.summary,
        folded(package.description),
    );
    let debian = tree.join("DEBIAN");
    write(&debian.join("control"), &control, 0o644)?;
    if let Some(settings) = package.settings {
        write(&debian.join("conffiles"), &format!("/etc/oarlock/{settings}\n"), 0o644)?;
    }
    let sources = root().join("xtask/package").join(package.name);
    for script in ["postinst", "prerm", "postrm"] {
        if sources.join(script).exists() {
            install(&sources.join(script), &debian.join(script), 0o755)?;
        }
    }
    Ok(())
}

/// A description in lines that begin with a blank (deb-control(5)).
fn folded(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 78 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!(" {word}")),
        }
    }
    lines.join("\n") + "\n"
}

fn copyright() -> String {
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: oarlock\n\n\
     Files: *\nCopyright: the authors of Oarlock\nLicense: Apache-2.0\n\n\
     License: Apache-2.0\n On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n \
     The BPF programs in oarlock-agent are also under the MIT licence or the GPL, version 2\n \
     (/usr/share/common-licenses/GPL-2).\n"
        .to_owned()
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let named = || format!("cannot write {}", path.display());
    folder_of(path)?;
    fs::write(path, text).with_context(named)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(named)
}

fn install(source: &Path, target: &Path, mode: u32) -> Result<()> {
    folder_of(target)?;
    fs::copy(source, target).with_context(|| format!("cannot copy {}", source.display()))?;
    Ok(fs::set_permissions(target, fs::Permissions::from_mode(mode))?)
}

/// The folder of a file, and those above it, with the mode that they have on any machine, whatever the umask is.
fn folder_of(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    fs::create_dir_all(folder)?;
    let trees = exec::target().join("packages/trees");
    let above: Vec<PathBuf> =
        folder.ancestors().take_while(|folder| **folder != *trees).map(Path::to_owned).collect();
    for folder in above {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
