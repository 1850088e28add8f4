//! Many connections at once for some time, and how long each request took.

use std::time::{Duration, Instant};

use super::connection::{Address, Connection};

/// Connections at once, as the figures of others were taken.
pub(crate) const CONNECTIONS: usize = 32;

/// What some seconds of requests showed.
#[derive(Debug, Default)]
pub(crate) struct Load {
    seconds: f64,
    micros: Vec<u64>,
}

impl Load {
    pub(crate) fn of(start: Instant, micros: Vec<u64>) -> Self {
        let mut load = Self { seconds: start.elapsed().as_secs_f64(), micros };
        load.micros.sort_unstable();
        load
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.micros.len() as f64 / self.seconds
    }

    /// Milliseconds below which this part of the requests took.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let index = (self.micros.len().saturating_sub(1)) as f64 * part;
        self.micros.get(index as usize).copied().unwrap_or(0) as f64 / 1000.0
    }
}

/// Connections that stay open between rounds.
pub(crate) async fn connections(address: &Address, count: usize) -> Vec<Connection> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        all.push(Connection::open(address).await);
    }
    all
}

/// Requests one after another on each connection; `make` gets the number of the request, which is given once.
pub(crate) async fn hammer<F>(
    connections: Vec<Connection>,
    seconds: f64,
    code: u16,
    make: F,
) -> (Load, Vec<Connection>)
where
    F: Fn(usize) -> Vec<u8> + Send + Clone + 'static,
{
    let (start, step) = (Instant::now(), connections.len());
    let end = start + Duration::from_secs_f64(seconds);
    let tasks: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(first, mut connection)| {
            let make = make.clone();
            tokio::spawn(async move {
                let mut micros = Vec::new();
                let mut number = first;
                while Instant::now() < end {
                    let request = make(number);
                    number += step;
                    let begun = Instant::now();
                    let answer = connection.ask(&request).await;
                    micros.push(u64::try_from(begun.elapsed().as_micros()).unwrap());
                    assert_eq!(answer.code, code, "{}", String::from_utf8_lossy(&request));
                }
                (micros, connection)
            })
        })
        .collect();
    let (mut micros, mut kept) = (Vec::new(), Vec::new());
    for task in tasks {
        let (some, connection) = task.await.unwrap();
        micros.extend(some);
        kept.push(connection);
    }
    (Load::of(start, micros), kept)
}
