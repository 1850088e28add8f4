//! Requests: one connection each, counted, from anywhere in the cluster's network.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks a web server of the quickstart once, on a connection of its own; the name of the pod that answered.
///
/// # Errors
/// The connection's, or an answer that is none of the web server's.
pub fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let pod = answer.lines().find_map(|line| line.strip_prefix("pod: "));
    pod.map(|pod| pod.trim().to_owned())
        .ok_or_else(|| std::io::Error::other(format!("no web server: {answer}")))
}

/// A connection that stays: asks a web server of the quickstart on it, again and again.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The name of the pod that answered.
    fn ask(&mut self) -> std::io::Result<String> {
        self.0.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: steady\r\n\r\n")?;
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(said) = line.strip_prefix("Content-Length: ") {
                length = said.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body);
        let pod = body.lines().find_map(|line| line.strip_prefix("pod: "));
        pod.map(|pod| pod.trim().to_owned())
            .ok_or_else(|| std::io::Error::other(format!("no web server: {body}")))
    }
}

/// How often each pod's name is in a text of answers.
#[must_use]
pub fn count(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for pod in text.lines().filter_map(|line| line.strip_prefix("pod: ")) {
        *counts.entry(pod.trim().to_owned()).or_default() += 1;
    }
    counts
}

/// Listens in a namespace, lets somebody connect, and returns the address that the connection came from.
#[must_use]
pub fn who_connects(namespace: &str, address: SocketAddr, connect: impl FnOnce()) -> IpAddr {
    let path = format!("/run/netns/{namespace}");
    let (ready, listens) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        enter(&path);
        let listener = TcpListener::bind(address).expect("the address is the namespace's");
        ready.send(()).expect("the test waits");
        listener.accept().expect("somebody connects").1.ip()
    });
    listens.recv().expect("it listens");
    connect();
    server.join().expect("somebody has connected")
}

/// Moves this thread into a network namespace.
fn enter(path: &str) {
    let network = std::fs::File::open(path).expect("the cluster is up");
    nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
}

/// Requests one after the other from a namespace, until told to end.
pub struct Load {
    stop: Arc<AtomicBool>,
    worker: JoinHandle<(usize, Vec<String>)>,
}

impl Load {
    /// Begins to ask.
    #[must_use]
    pub fn start(namespace: &str, address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (Arc::clone(&stop), format!("/run/netns/{namespace}"));
        let worker = std::thread::spawn(move || {
            enter(&path);
            let (mut well, mut failures) = (0, Vec::new());
            let started = std::time::Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                match ask(address) {
                    Ok(_) => well += 1,
                    Err(error) => failures.push(format!("{:?} after {well}: {error}", started.elapsed())),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            (well, failures)
        });
        Self { stop, worker }
    }

    /// Begins to ask on so many connections that stay, each in turn and all of them a hundred times a second. The first failure of each
    /// is its last.
    #[must_use]
    pub fn keep(namespace: &str, address: SocketAddr, connections: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (Arc::clone(&stop), format!("/run/netns/{namespace}"));
        let worker = std::thread::spawn(move || {
            enter(&path);
            let (mut well, mut failures) = (0, Vec::new());
            let mut kept: Vec<(Kept, String)> = Vec::new();
            for _ in 0..connections {
                let opened = Kept::connect(address).and_then(|mut kept| Ok((kept.ask()?, kept)));
                match opened {
                    Ok((pod, connection)) => kept.push((connection, pod)),
                    Err(error) => failures.push(format!("a first request: {error}")),
                }
            }
            let started = std::time::Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                kept.retain_mut(|(connection, pod)| {
                    let said = connection.ask();
                    match &said {
                        Ok(other) if other == pod => well += 1,
                        Ok(other) => failures.push(format!("{other} answers on a connection to {pod}")),
                        Err(error) => failures.push(format!("{:?} after {well}: {error}", started.elapsed())),
                    }
                    said.is_ok()
                });
                std::thread::sleep(Duration::from_millis(10));
            }
            (well, failures)
        });
        Self { stop, worker }
    }

    /// Ends; how many requests were answered, and why others were not.
    #[must_use]
    pub fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("it counts failures, it does not fail")
    }
}
