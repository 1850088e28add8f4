// A fingerprint of the sources that the BPF object is made of. Included by `cargo xtask build`, which writes it beside the
// object, and by the agent's build script, which refuses an object of other sources.

/// FNV-1a over the paths and contents of all files under `src` and `programs`, in order.
fn fingerprint(ebpf: &std::path::Path) -> std::io::Result<String> {
    let mut files = Vec::new();
    let mut folders = vec![ebpf.join("src"), ebpf.join("programs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for file in files {
        let name = file.strip_prefix(ebpf).unwrap_or(&file).display().to_string();
        for byte in name.into_bytes().into_iter().chain(std::fs::read(&file)?) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(format!("{hash:016x}"))
}
