//! What programs need of the system's libraries: the versions of the C library whose symbols they name.

use std::path::PathBuf;

use anyhow::Result;

use crate::exec::output;

/// As `Depends:` has it.
pub(crate) fn of(binaries: &[PathBuf]) -> Result<Vec<String>> {
    let binaries: Vec<String> = binaries.iter().map(|path| path.display().to_string()).collect();
    // Versions of symbols are texts in a program's tables.
    let mut arguments =
        vec!["LC_ALL=C", "grep", "--text", "--only-matching", "--no-filename", "GLIBC_2[.][0-9]*"];
    arguments.extend(binaries.iter().map(String::as_str));
    let newest = newest(&output("env", &arguments)?);
    Ok(vec![format!("libc6 (>= 2.{newest})"), "libgcc-s1".to_owned()])
}

/// The newest minor version; none is asked for that is older than any Debian that we run on.
fn newest(versions: &str) -> u32 {
    let minors = versions.lines().filter_map(|line| line.strip_prefix("GLIBC_2.")?.parse().ok());
    minors.fold(28, u32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(newest("GLIBC_2.9\nGLIBC_2.34\nGLIBC_2.\nGLIBC_2.4\n"), 34);
        assert_eq!(newest(""), 28);
    }
}
