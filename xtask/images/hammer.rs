//! A load generator: as many requests as fit into a time. Prints one line of JSON.
//!
//! `hammer KIND SECONDS THREADS ADDRESS...`: the addresses take turns, so that several servers asked directly can be compared with
//! one address that stands for them. The kind is `short`, one connection for each request; `keep`, one for each thread; or `bulk`, the same
//! with answers of a mebibyte each.
//!
//! `hammer relay LISTEN ADDRESS...`: a proxy of TCP in user space, to compare with.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a request may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Count {
    /// Each answered request's microseconds.
    times: Vec<u32>,
    failed: u64,
    first_error: String,
    pods: BTreeMap<String, u64>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, relay, listen, backends @ ..] = arguments.as_slice() && relay == "relay" {
        return self::relay(listen, backends);
    }
    let [_, kind, seconds, threads, addresses @ ..] = arguments.as_slice() else {
        panic!("hammer short|keep|bulk SECONDS THREADS ADDRESS...")
    };
    let kind = match kind.as_str() {
        "short" => Kind::Short,
        "keep" => Kind::Keep,
        "bulk" => Kind::Bulk,
        other => panic!("{other} is none of short, keep, bulk"),
    };
    let seconds: f64 = seconds.parse().expect("seconds");
    let threads: usize = threads.parse().expect("threads");
    let addresses: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().expect("address:port")).collect();
    assert!(!addresses.is_empty(), "at least one address");
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let turn = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (addresses, turn) = (addresses.clone(), Arc::clone(&turn));
            std::thread::spawn(move || hammer(kind, &addresses, &turn, end))
        })
        .collect();
    let mut total = Count::default();
    for worker in workers {
        let count = worker.join().expect("counts, does not fail");
        total.times.extend(count.times);
        total.failed += count.failed;
        if total.first_error.is_empty() {
            total.first_error = count.first_error;
        }
        for (pod, times) in count.pods {
            *total.pods.entry(pod).or_default() += times;
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    total.times.sort_unstable();
    let at = |share: f64| {
        let place = (total.times.len() as f64 * share) as usize;
        total.times.get(place).copied().unwrap_or_default()
    };
    let pods: Vec<String> = total.pods.iter().map(|(pod, times)| format!("{pod:?}:{times}")).collect();
    println!(
        "{{\"answered\":{},\"failed\":{},\"per_second\":{:.1},\"p50_us\":{},\"p99_us\":{},\"first_error\":{:?},\"pods\":{{{}}}}}",
        total.times.len(),
        total.failed,
        total.times.len() as f64 / elapsed,
        at(0.5),
        at(0.99),
        total.first_error.replace(['"', '\\'], "'"),
        pods.join(",")
    );
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Short,
    Keep,
    Bulk,
}

/// Asks until the end. All threads take turns together, as a Service's clients do.
fn hammer(kind: Kind, addresses: &[SocketAddr], turn: &AtomicUsize, end: Instant) -> Count {
    let mut count = Count::default();
    let mut answer = Vec::with_capacity(4096);
    let mut kept = None;
    loop {
        let address = &addresses[turn.fetch_add(1, Ordering::Relaxed) % addresses.len()];
        let begin = Instant::now();
        if begin >= end {
            break;
        }
        answer.clear();
        match ask(kind, address, &mut kept, &mut answer) {
            Ok(()) => {
                count.times.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
                let text = String::from_utf8_lossy(&answer);
                let pod = text.lines().find_map(|line| line.strip_prefix("pod: ")).unwrap_or("?");
                match count.pods.get_mut(pod) {
                    Some(times) => *times += 1,
                    None => drop(count.pods.insert(pod.to_owned(), 1)),
                }
            }
            Err(error) => {
                count.failed += 1;
                if count.first_error.is_empty() {
                    count.first_error = format!("{address}: {error}");
                }
            }
        }
    }
    count
}

/// One request. Connections end by a reset: no side is left in TIME_WAIT, so that neither ports run out nor a masqueraded port meets
/// what is left of another connection.
fn ask(kind: Kind, address: &SocketAddr, kept: &mut Option<TcpStream>, answer: &mut Vec<u8>) -> std::io::Result<()> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            reset_on_close(&stream)?;
            stream
        }
    };
    let path = if kind == Kind::Bulk { "/bytes/1048576" } else { "/" };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n").as_bytes())?;
    let mut part = [0; 65_536];
    // How long the head and all of it are, once the head is there.
    let mut lengths = None;
    let mut length = 0;
    while lengths.is_none_or(|whole| length < whole) {
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        length += read;
        // Of a long answer the beginning is enough.
        if answer.len() < 4096 {
            answer.extend_from_slice(&part[..read]);
            lengths = lengths.or_else(|| whole(answer));
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(std::io::Error::other("no answer of the web server"));
    }
    if kind != Kind::Short {
        *kept = Some(stream);
    }
    Ok(())
}

/// How long the answer is that begins so, where that is said already.
fn whole(answer: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(answer);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    Some(head.len() + 4 + length.parse::<usize>().ok()?)
}

/// Copies between each client and one of the backends in turn, in two threads for each connection.
fn relay(listen: &str, backends: &[String]) {
    let listener = TcpListener::bind(listen).expect("the address is free");
    for (client, backend) in listener.incoming().zip(backends.iter().cycle()) {
        let Ok(client) = client else { continue };
        let backend = backend.clone();
        std::thread::spawn(move || {
            let Ok(server) = TcpStream::connect(&backend) else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
            let asks = std::thread::spawn(move || copy(&from, &to));
            copy(&server, &client);
            let _ = asks.join();
        });
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    // Whoever ends, both end.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// SO_LINGER of no time. The standard library has it only in nightlies; numbers of Linux on x86-64 and arm64.
fn reset_on_close(stream: &TcpStream) -> std::io::Result<()> {
    unsafe extern "C" {
        fn setsockopt(socket: i32, level: i32, name: i32, value: *const i32, length: u32) -> i32;
    }
    let linger = [1, 0];
    // SAFETY: the socket is open, the value is two numbers of four bytes.
    match unsafe { setsockopt(stream.as_raw_fd(), 1, 13, linger.as_ptr(), 8) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
