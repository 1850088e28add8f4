//! A web server for tests: answers who it is, who asks, and what was sent. `/healthz` is well, `/bytes/N` so many bytes. Datagrams to the same port are
//! answered with who it is and who asks.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Threads that wait for connections; more would only be woken in vain.
const IDLE: usize = 4;

/// How many bytes one answer has at most.
const LONGEST: usize = 16 << 20;

struct Server {
    listener: TcpListener,
    host: String,
    idle: AtomicUsize,
}

fn main() {
    let port = std::env::args().nth(1).and_then(|port| port.parse::<u16>().ok()).unwrap_or(80);
    let host = std::env::args().nth(2);
    let host = host.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok()).unwrap_or_default();
    // Clients of both families, where the kernel knows both.
    let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let everywhere = everywhere.map(|ip| SocketAddr::new(ip, port));
    let listener = TcpListener::bind(&everywhere[..]).expect("the port is free");
    println!("listening on port {port}");
    let server = Arc::new(Server { listener, host: host.trim().to_owned(), idle: AtomicUsize::new(0) });
    let first = Arc::clone(&server);
    std::thread::spawn(move || wait(&first));
    let socket = UdpSocket::bind(&everywhere[..]).expect("the port is free");
    let mut datagram = [0; 65_536];
    loop {
        if let Ok((length, client)) = socket.recv_from(&mut datagram) {
            let sent = String::from_utf8_lossy(&datagram[..length]);
            let shown = shown(client);
            let answer = format!("pod: {}\nclient: {shown}\nrequest: {sent}\n", server.host);
            let _ = socket.send_to(answer.as_bytes(), client);
        }
    }
}

/// Clients of IPv4 by their own addresses, not by those that they have among those of IPv6.
fn shown(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

/// Serves one connection after the other. The last that was waiting leaves another in its place, so that slow or silent
/// clients keep nobody waiting.
fn wait(server: &Arc<Server>) {
    loop {
        server.idle.fetch_add(1, Ordering::SeqCst);
        let accepted = server.listener.accept();
        if server.idle.fetch_sub(1, Ordering::SeqCst) == 1 {
            let other = Arc::clone(server);
            std::thread::spawn(move || wait(&other));
        }
        if let Ok((stream, _)) = accepted {
            let _ = serve(server, stream);
        }
        if server.idle.load(Ordering::SeqCst) >= IDLE {
            return;
        }
    }
}

fn serve(server: &Server, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let client = shown(stream.peer_addr()?);
    let host = &server.host;
    let mut reader = BufReader::new(&stream);
    let mut writer = &stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut headers = String::new();
        let mut close = request.trim_end().ends_with("HTTP/1.0");
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            close |= line.to_ascii_lowercase().starts_with("connection: close");
            headers.push_str(&line);
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        let body = if path == "/healthz" {
            "ok\n".to_owned()
        } else if let Some(length) = path.strip_prefix("/bytes/").and_then(|length| length.parse().ok()) {
            "x".repeat(LONGEST.min(length))
        } else {
            format!("<title>{host}</title>\npod: {host}\nclient: {client}\nrequest: {}\n{headers}", request.trim())
        };
        let connection = if close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        writer.write_all(format!("{head}{body}").as_bytes())?;
        if close {
            return Ok(());
        }
    }
}
