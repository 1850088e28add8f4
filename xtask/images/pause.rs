//! Holds the namespaces of a pod: waits for ever, and ends at once when asked to.

fn main() {
    loop {
        std::thread::park();
    }
}
