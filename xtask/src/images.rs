//! The images that a cluster without a registry needs: pause, web, toolbox. Made here, imported through Docker's API.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::docker::{self, Docker};
use crate::exec::{output, root, step};

const VERSION: &str = "0.1.0";

/// Each image, and the sources that it is made of.
const IMAGES: [(&str, &[&str]); 3] = [
    ("pause", &["xtask/images/pause.rs"]),
    ("web", &["xtask/images/web.rs", "/bin/busybox"]),
    ("toolbox", &["xtask/images/hammer.rs", "/bin/busybox"]),
];

/// Makes and imports the images that are missing, or that were made of other sources.
pub(crate) fn ensure() -> Result<()> {
    for (name, sources) in IMAGES {
        let tag = tag(name);
        let made_of = digest(&sources.iter().map(|s| root().join(s)).collect::<Vec<_>>())?;
        if docker::machine().image_made_of(&tag).as_deref() == Some(&made_of) {
            continue;
        }
        step(&format!("making the image {tag}"), || docker::machine().load(&archive(name, &tag, &made_of)?))?;
    }
    Ok(())
}

fn tag(name: &str) -> String {
    format!("oarlock/{name}:{VERSION}")
}

/// Gives a daemon the images as the machine's has them.
pub(crate) fn copy(docker: &Docker) -> Result<()> {
    let machine = docker::machine();
    let tags = IMAGES.map(|(name, _)| tag(name));
    if tags.iter().all(|tag| docker.image_made_of(tag) == machine.image_made_of(tag)) {
        return Ok(());
    }
    let archive = folder()?.join("all.tar");
    machine.save(&tags, &archive)?;
    docker.load(&archive)
}

/// The archive of the image that holds pods' namespaces.
pub(crate) fn pause() -> Result<PathBuf> {
    let (name, sources) = IMAGES[0];
    let made_of = digest(&sources.iter().map(|s| root().join(s)).collect::<Vec<_>>())?;
    archive(name, &tag(name), &made_of)
}

/// One of the images' programs, for use on the machine itself.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    compile(name, &folder()?)
}

fn folder() -> Result<PathBuf> {
    let folder = root().join("target/images");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn digest(files: &[PathBuf]) -> Result<String> {
    let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    let said = output("sha256sum", &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let digests: Vec<&str> = said.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    Ok(digests.join("-"))
}

/// An archive as `docker save` writes it: one layer, a config, a manifest.
fn archive(name: &str, tag: &str, made_of: &str) -> Result<PathBuf> {
    let folder = folder()?;
    let layer = folder.join(format!("{name}-layer.tar"));
    let mut tar = tar::Builder::new(std::fs::File::create(&layer)?);
    let entrypoint: Vec<&str> = match name {
        "toolbox" => {
            add_busybox(&mut tar)?;
            add_file(&mut tar, &compile("hammer", &folder)?, "bin/hammer", 0o755)?;
            vec!["/bin/sleep", "1000000"]
        }
        _ => {
            let binary = compile(name, &folder)?;
            add_file(&mut tar, &binary, name, 0o755)?;
            if name == "web" {
                // For `kubectl exec`: images of web servers have a shell.
                add_busybox(&mut tar)?;
            }
            vec![if name == "web" { "/web" } else { "/pause" }]
        }
    };
    tar.finish()?;
    drop(tar);
    let digest = digest(std::slice::from_ref(&layer))?;
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Cmd": entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Labels": {docker::MADE_OF: made_of},
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created_by": "cargo xtask"}],
    });
    let config_path = folder.join(format!("{name}-config.json"));
    std::fs::write(&config_path, config.to_string())?;
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]);
    let manifest_path = folder.join(format!("{name}-manifest.json"));
    std::fs::write(&manifest_path, manifest.to_string())?;
    let path = folder.join(format!("{name}.tar"));
    let mut tar = tar::Builder::new(std::fs::File::create(&path)?);
    add_file(&mut tar, &manifest_path, "manifest.json", 0o644)?;
    add_file(&mut tar, &config_path, "config.json", 0o644)?;
    add_file(&mut tar, &layer, "layer.tar", 0o644)?;
    tar.finish()?;
    Ok(path)
}

type Tar = tar::Builder<std::fs::File>;

fn add_file(tar: &mut Tar, path: &Path, name: &str, mode: u32) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, name, bytes.as_slice())?;
    Ok(())
}

/// busybox with a link for each of its applets.
fn add_busybox(tar: &mut Tar) -> Result<()> {
    add_file(tar, Path::new("/bin/busybox"), "bin/busybox", 0o755)?;
    for applet in output("/bin/busybox", &["--list"])?.lines().filter(|a| *a != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "/bin/busybox")?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    tar.append_data(&mut header, "tmp/", std::io::empty())?;
    Ok(())
}

/// A static program of one file.
fn compile(name: &str, folder: &Path) -> Result<PathBuf> {
    let binary = folder.join(name);
    let source = root().join(format!("xtask/images/{name}.rs"));
    let arguments = [
        "--edition",
        "2024",
        "-O",
        "-C",
        "target-feature=+crt-static",
        "-C",
        "strip=symbols",
        "-C",
        "panic=abort",
        "-o",
        &binary.display().to_string(),
        &source.display().to_string(),
    ];
    output("rustc", &arguments)?;
    Ok(binary)
}
