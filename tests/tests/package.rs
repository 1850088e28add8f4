//! The Debian packages: what is in them, that it runs, that systemd takes the units and the shell the scripts.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oarlock_tests::cluster::{shell, xtask};

/// Where the packages are, made once, of programs that are built for tests.
fn packages() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let said = xtask(&["package", "--profile", "dev"]);
        assert!(said.well, "{}", said.text);
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/packages")
    })
}

fn file(package: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let architecture = shell("dpkg --print-architecture").text;
    packages().join(format!("{package}_{version}_{}.deb", architecture.trim())).display().to_string()
}

fn said(command: &str) -> String {
    let said = shell(command);
    assert!(said.well, "{command}: {}", said.text);
    said.text
}

#[test]
fn packages_hold_what_a_machine_needs_with_its_rights() {
    for (package, wanted) in [
        (
            "oarlock-control",
            &[
                "-rwxr-xr-x root/root ./usr/bin/oarlock-control",
                "-rw-r--r-- root/root ./usr/lib/systemd/system/oarlock-control.service",
                "-rw-r--r-- root/root ./usr/lib/sysusers.d/oarlock-control.conf",
                "-rw-r--r-- root/root ./etc/oarlock/control.env",
                "-rw-r--r-- root/root ./usr/share/doc/oarlock-control/copyright",
                "drwxr-xr-x root/root ./etc/oarlock/",
            ][..],
        ),
        (
            "oarlock-agent",
            &[
                "-rwxr-xr-x root/root ./usr/bin/oarlock-agent",
                "-rw-r--r-- root/root ./usr/lib/systemd/system/oarlock-agent.service",
                "-rw-r--r-- root/root ./etc/oarlock/agent.env",
                "-rw-r--r-- root/root ./usr/share/oarlock/pause.tar",
                "-rw-r--r-- root/root ./usr/share/doc/oarlock-agent/README.md",
            ],
        ),
        (
            "oarlock-kubectl",
            &[
                "-rwxr-xr-x root/root ./usr/bin/kubectl-oarlock",
                "-rwxr-xr-x root/root ./usr/bin/kubectl-rolling_update",
            ],
        ),
    ] {
        let listed = said(&format!("dpkg-deb --contents {} | awk '{{print $1, $2, $6}}'", file(package)));
        for line in wanted {
            assert!(listed.lines().any(|listed| listed == *line), "no {line} in\n{listed}");
        }
        let fields = said(&format!("dpkg-deb --field {}", file(package)));
        assert!(fields.contains("Depends: libc6 (>= 2."), "{fields}");
    }
    let agent = said(&format!("dpkg-deb --field {} Depends", file("oarlock-agent")));
    assert!(agent.contains("docker.io | docker-ce"), "{agent}");
    for (package, settings) in [("oarlock-control", "control"), ("oarlock-agent", "agent")] {
        let kept = said(&format!("dpkg-deb --info {} conffiles", file(package)));
        assert_eq!(kept, format!("/etc/oarlock/{settings}.env\n"));
        for script in ["postinst", "prerm", "postrm"] {
            let _ = said(&format!("dpkg-deb --info {} {script} | sh -n", file(package)));
        }
    }
}

#[test]
fn unpacked_the_programs_run_systemd_takes_the_units_and_settings_are_all_defaults() {
    let unpacked = tempfile::tempdir().unwrap();
    let to = unpacked.path().display();
    for package in ["oarlock-control", "oarlock-agent", "oarlock-kubectl"] {
        let _ = said(&format!("dpkg-deb --extract {} {to}", file(package)));
    }
    let version = env!("CARGO_PKG_VERSION");
    for daemon in ["oarlock-control", "oarlock-agent"] {
        assert_eq!(said(&format!("{to}/usr/bin/{daemon} --version")).trim(), format!("{daemon} {version}"));
    }
    let _ =
        said(&format!("{to}/usr/bin/kubectl-oarlock --help && {to}/usr/bin/kubectl-rolling_update --help"));
    for unit in ["oarlock-control", "oarlock-agent"] {
        // As on a machine, but for where the program is.
        let unit = format!("{to}/usr/lib/systemd/system/{unit}.service");
        let _ = said(&format!("sed -i 's|/usr/bin/oarlock|{to}/usr/bin/oarlock|' {unit}"));
        let complaints = said(&format!("systemd-analyze verify --recursive-errors=no --man=no {unit} 2>&1"));
        assert_eq!(complaints.trim(), "");
    }
    for (settings, needed) in
        [("control.env", "#OARLOCK_DATA_DIR=/var/lib/oarlock/control"), ("agent.env", "#OARLOCK_SERVER=")]
    {
        let text = said(&format!("cat {to}/etc/oarlock/{settings}"));
        assert!(text.lines().any(|line| line == needed), "{text}");
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
    }
    let image = said(&format!("tar -xOf {to}/usr/share/oarlock/pause.tar manifest.json"));
    assert!(image.contains("oarlock/pause:0.1.0"), "{image}");
}
