//! Many streams of bytes over one connection of frames, as both ends of it see them.
//!
//! In: frames that arrived, bytes to send. Out: frames to send, bytes that arrived. Each stream is granted a window of bytes and
//! granted more as its reader takes them, so that a slow reader holds up nobody else and no memory grows. What arrived is kept
//! as bytes, not as pieces: a peer that sends byte by byte costs no more than one that sends in bulk.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use oarlock_api::node::stream_frame::Frame;
use oarlock_api::node::stream_open::Request;
use oarlock_api::node::{StreamClose, StreamEof, StreamFrame, StreamOpen};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::Tasks;

/// Bytes that a stream may have under way in one direction.
const WINDOW: u32 = 256 * 1024;
/// The largest piece of a stream in one frame.
const MAX_PIECE: usize = 64 * 1024;
/// How many channels a stream has.
const CHANNELS: usize = 5;

/// Standard input, and what is sent into a connection.
pub const STDIN: u32 = 0;
/// Standard output, and what comes out of a connection.
pub const STDOUT: u32 = 1;
/// Standard error.
pub const STDERR: u32 = 2;
/// How it ended, in JSON.
pub const ERROR: u32 = 3;
/// The size of the terminal: only the last one counts.
pub const RESIZE: u32 = 4;

/// One end of a connection. Clones share it.
#[derive(Debug, Clone)]
pub struct Mux {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    outgoing: mpsc::Sender<StreamFrame>,
    table: Mutex<Table>,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    streams: HashMap<u64, Arc<Flow>>,
    closed: bool,
}

/// What both directions of a stream share.
#[derive(Debug)]
struct Flow {
    /// What may be sent.
    window: Semaphore,
    arrived: Mutex<Arrived>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Arrived {
    bytes: [BytesMut; CHANNELS],
    ends: [bool; CHANNELS],
    /// Channels with something to take, in the order in which they got it, each once.
    turns: VecDeque<u32>,
    /// What the peer may still send.
    granted: usize,
    close: Option<StreamClose>,
}

/// What a reader takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of a channel.
    Data(u32, Bytes),
    /// Nothing follows on this channel.
    End(u32),
}

/// A stream. Dropped, it ends for the peer, too.
#[derive(Debug)]
pub struct Stream {
    sender: Sender,
}

/// The sending half of a stream; of no effect once the stream is dropped.
#[derive(Debug, Clone)]
pub struct Sender {
    id: u64,
    flow: Arc<Flow>,
    shared: Arc<Shared>,
}

impl Mux {
    /// One end of a connection whose frames leave through `outgoing`.
    #[must_use]
    pub fn new(tasks: &Tasks, outgoing: mpsc::Sender<StreamFrame>) -> Self {
        let shared = Shared { outgoing, table: Mutex::default(), tasks: tasks.clone() };
        Self { shared: Arc::new(shared) }
    }

    /// Opens a stream; none when the connection has ended.
    pub async fn open(&self, request: Request) -> Option<Stream> {
        let id = {
            let mut table = self.shared.table.lock();
            table.last += 1;
            table.last
        };
        let stream = self.register(id)?;
        let open = Frame::Open(Box::new(StreamOpen { request: Some(request) }));
        stream.sender.frame(0, open).await?;
        stream.receive().await?;
        Some(stream)
    }

    fn register(&self, id: u64) -> Option<Stream> {
        let flow = Flow { window: Semaphore::new(0), arrived: Mutex::default(), bell: Notify::new() };
        let flow = Arc::new(flow);
        let mut table = self.shared.table.lock();
        if table.closed || table.streams.contains_key(&id) {
            return None;
        }
        table.streams.insert(id, Arc::clone(&flow));
        drop(table);
        Some(Stream { sender: Sender { id, flow, shared: Arc::clone(&self.shared) } })
    }

    /// How many streams are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.table.lock().streams.len()
    }

    /// Takes a frame that arrived; returns the stream that the peer opened by it. That one carries nothing towards us before
    /// [`Stream::receive`]. Never waits.
    pub fn deliver(&self, frame: StreamFrame) -> Option<(Stream, StreamOpen)> {
        let id = frame.id;
        let frame_of = |flow: &Flow, frame: Frame, channel: u32| match frame {
            Frame::Data(data) => flow.data(channel, &data),
            Frame::Eof(StreamEof {}) => flow.end_of(channel),
            Frame::Window(bytes) => {
                let room = Semaphore::MAX_PERMITS - flow.window.available_permits();
                flow.window.add_permits((bytes as usize).min(room));
                true
            }
            Frame::Close(close) => {
                flow.close(close);
                self.shared.table.lock().streams.remove(&id);
                true
            }
            Frame::Open(_) | Frame::Hello(_) => true,
        };
        match frame.frame? {
            Frame::Open(open) => return Some((self.register(id)?, *open)),
            other => {
                let flow = self.shared.table.lock().streams.get(&id).cloned()?;
                if !frame_of(&flow, other, frame.channel) {
                    let why = "a stream carried more than it was granted";
                    flow.close(StreamClose { code: 500, message: why.to_owned() });
                    self.shared.table.lock().streams.remove(&id);
                    self.shared.say(id, close(500, why));
                }
            }
        }
        None
    }

    /// The connection is gone: every stream ends.
    pub fn end(&self) {
        let mut table = self.shared.table.lock();
        table.closed = true;
        for flow in table.streams.drain().map(|(_, flow)| flow) {
            flow.close(StreamClose { code: 503, message: "the connection to the node was lost".to_owned() });
        }
    }
}

impl Shared {
    /// Sends a frame from where nobody can wait.
    fn say(self: &Arc<Self>, id: u64, frame: Frame) {
        let frame = StreamFrame { id, channel: 0, frame: Some(frame) };
        if let Err(mpsc::error::TrySendError::Full(frame)) = self.outgoing.try_send(frame) {
            let outgoing = self.outgoing.clone();
            self.tasks.job("stream/close", async move {
                // A connection that is gone has closed everything.
                let _ = outgoing.send(frame).await;
            });
        }
    }
}

fn close(code: u16, message: &str) -> Frame {
    Frame::Close(StreamClose { code: i32::from(code), message: message.to_owned() })
}

impl Flow {
    /// Whether it was within what was granted.
    fn data(&self, channel: u32, data: &[u8]) -> bool {
        let mut arrived = self.arrived.lock();
        let arrived = &mut *arrived;
        let Some(bytes) = arrived.bytes.get_mut(channel as usize) else { return true };
        if channel == RESIZE {
            if data.len() > 1024 {
                return false;
            }
            bytes.clear();
        } else {
            let Some(left) = arrived.granted.checked_sub(data.len()) else { return false };
            arrived.granted = left;
        }
        bytes.extend_from_slice(data);
        arrived.has(channel);
        self.bell.notify_waiters();
        true
    }

    fn end_of(&self, channel: u32) -> bool {
        let mut arrived = self.arrived.lock();
        if let Some(end) = arrived.ends.get_mut(channel as usize) {
            *end = true;
            arrived.has(channel);
        }
        self.bell.notify_waiters();
        true
    }

    fn close(&self, close: StreamClose) {
        self.arrived.lock().close.get_or_insert(close);
        self.window.close();
        self.bell.notify_waiters();
    }
}

impl Arrived {
    fn has(&mut self, channel: u32) {
        if !self.turns.contains(&channel) {
            self.turns.push_back(channel);
        }
    }

    /// Takes what is next on one of the channels.
    fn take(&mut self, channels: &[u32]) -> Option<Piece> {
        let position = self.turns.iter().position(|turn| channels.contains(turn))?;
        let channel = self.turns.remove(position)?;
        let index = channel as usize;
        let bytes = self.bytes.get_mut(index)?;
        if bytes.is_empty() {
            return Some(Piece::End(channel));
        }
        let data = bytes.split().freeze();
        if self.ends.get(index).is_some_and(|end| *end) {
            self.turns.push_front(channel);
        }
        Some(Piece::Data(channel, data))
    }

    fn holds(&self, channels: &[u32]) -> bool {
        self.turns.iter().any(|turn| channels.contains(turn))
    }
}

impl Stream {
    /// Lets the peer send, as far as the window goes.
    pub async fn receive(&self) -> Option<()> {
        self.sender.flow.arrived.lock().granted = WINDOW as usize;
        self.sender.frame(0, Frame::Window(WINDOW)).await
    }

    /// What arrives next on one of the channels; none when the stream has ended and everything was taken. Several readers of
    /// different channels may wait at once. Dropped while it waits, it has taken nothing.
    pub async fn read(&self, channels: &[u32]) -> Option<Piece> {
        let flow = &self.sender.flow;
        loop {
            let bell = flow.bell.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            let (holds, closed) = {
                let arrived = flow.arrived.lock();
                (arrived.holds(channels), arrived.close.is_some())
            };
            if holds {
                let slot = if closed { None } else { self.sender.shared.outgoing.reserve().await.ok() };
                let mut arrived = flow.arrived.lock();
                let Some(piece) = arrived.take(channels) else { continue };
                if let (Piece::Data(channel, data), Some(slot)) = (&piece, slot)
                    && *channel != RESIZE
                {
                    let taken = u32::try_from(data.len()).unwrap_or(0);
                    arrived.granted += taken as usize;
                    let frame = Some(Frame::Window(taken));
                    slot.send(StreamFrame { id: self.sender.id, channel: 0, frame });
                }
                return Some(piece);
            }
            if closed {
                return None;
            }
            bell.await;
        }
    }

    /// Waits until the peer has ended the stream or the connection is gone, and says how. What arrived before can still be
    /// read.
    pub async fn closed(&self) -> StreamClose {
        let flow = &self.sender.flow;
        loop {
            let bell = flow.bell.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            let close = flow.arrived.lock().close.clone();
            if let Some(close) = close {
                return close;
            }
            bell.await;
        }
    }

    /// The sending half.
    #[must_use]
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Ends the stream after everything that was sent; 0 is a clean end.
    pub async fn finish(self, code: u16, message: &str) {
        let open = self.sender.shared.table.lock().streams.remove(&self.sender.id).is_some();
        if open {
            self.sender.frame(0, close(code, message)).await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Sender { id, flow, shared } = &self.sender;
        flow.window.close();
        let open = shared.table.lock().streams.remove(id).is_some();
        if open {
            shared.say(*id, close(0, ""));
        }
    }
}

impl Sender {
    /// Sends bytes as the window allows; none when the stream has ended.
    pub async fn send(&self, channel: u32, mut bytes: Bytes) -> Option<()> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(MAX_PIECE));
            if channel == RESIZE {
                if self.flow.window.is_closed() {
                    return None;
                }
            } else {
                let wanted = u32::try_from(part.len()).ok()?;
                self.flow.window.acquire_many(wanted).await.ok()?.forget();
            }
            self.frame(channel, Frame::Data(part)).await?;
        }
        Some(())
    }

    /// Says that nothing follows on a channel.
    pub async fn end_of(&self, channel: u32) -> Option<()> {
        self.frame(channel, Frame::Eof(StreamEof {})).await
    }

    async fn frame(&self, channel: u32, frame: Frame) -> Option<()> {
        self.shared.outgoing.send(StreamFrame { id: self.id, channel, frame: Some(frame) }).await.ok()
    }
}

/// Two ends that are connected in memory, for tests: the one that opens, and what the other one accepts.
#[must_use]
pub fn local(tasks: &Tasks) -> (Mux, mpsc::Receiver<(Stream, StreamOpen)>) {
    let ((up, mut from_opener), (down, mut from_accepter)) = (mpsc::channel(4), mpsc::channel(4));
    let (opener, accepter) = (Mux::new(tasks, up), Mux::new(tasks, down));
    let (opened, receiver) = mpsc::channel(16);
    let (far, near) = (accepter.clone(), opener.clone());
    tasks.job("mux/up", async move {
        while let Some(frame) = from_opener.recv().await {
            if let Some(open) = far.deliver(frame)
                && opened.send(open).await.is_err()
            {
                return;
            }
        }
    });
    tasks.job("mux/down", async move {
        while let Some(frame) = from_accepter.recv().await {
            near.deliver(frame);
        }
    });
    (opener, receiver)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oarlock_fuzz::Target;
    use prost::Message as _;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    async fn pair(tasks: &Tasks) -> (Stream, Stream) {
        let (opener, mut opened) = local(tasks);
        let near = opener.open(Request::Log(oarlock_api::node::LogRequest::default())).await.unwrap();
        let (far, _) = opened.recv().await.unwrap();
        far.receive().await.unwrap();
        (near, far)
    }

    fn open(mux: &Mux, id: u64) -> Option<Stream> {
        let open = Some(Frame::Open(Box::default()));
        Some(mux.deliver(StreamFrame { id, channel: 0, frame: open })?.0)
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(SOON, future).await.expect("in time")
    }

    #[tokio::test]
    async fn bytes_arrive_whole_and_in_order_however_slow_the_reader_is() {
        let tasks = Tasks::new();
        let (near, far) = pair(&tasks).await;
        let all: Bytes = (0..3 * WINDOW / 4).flat_map(u32::to_be_bytes).collect();
        let send = async {
            let sender = far.sender();
            for piece in all.chunks(1000) {
                sender.send(STDOUT, Bytes::copy_from_slice(piece)).await.unwrap();
            }
            sender.end_of(STDOUT).await.unwrap();
            sender.send(ERROR, "done".into()).await.unwrap();
            far.finish(0, "").await;
        };
        let read = async {
            let mut got = Vec::new();
            loop {
                match near.read(&[STDOUT, STDERR, ERROR]).await {
                    Some(Piece::Data(STDOUT, data)) => {
                        assert!(data.len() <= WINDOW as usize);
                        got.extend_from_slice(&data);
                    }
                    Some(Piece::End(STDOUT)) => break,
                    other => panic!("{other:?}"),
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(near.read(&[ERROR]).await, Some(Piece::Data(ERROR, "done".into())));
            assert_eq!(near.read(&[ERROR]).await, None);
            assert_eq!(near.closed().await.code, 0);
            got
        };
        let ((), got) = soon(async { tokio::join!(send, read) }).await;
        assert!(got == all);
    }

    #[tokio::test]
    async fn a_sender_waits_for_a_reader_who_waits_and_hears_when_it_is_gone() {
        let tasks = Tasks::new();
        let (near, far) = pair(&tasks).await;
        let sender = far.sender();
        let window = usize::try_from(WINDOW).unwrap();
        soon(sender.send(STDOUT, vec![0; window].into())).await.unwrap();
        let one_more = sender.send(STDOUT, "x".into());
        assert!(tokio::time::timeout(Duration::from_millis(50), one_more).await.is_err());
        drop(near);
        assert_eq!(soon(far.closed()).await.code, 0);
        assert_eq!(soon(sender.send(STDOUT, "x".into())).await, None);
    }

    #[tokio::test]
    async fn the_last_size_is_what_counts_and_needs_no_window() {
        let tasks = Tasks::new();
        let (near, far) = pair(&tasks).await;
        for size in ["1", "2", "3"] {
            soon(near.sender().send(RESIZE, size.into())).await.unwrap();
        }
        soon(near.sender().end_of(STDIN)).await.unwrap();
        assert_eq!(soon(far.read(&[STDIN])).await, Some(Piece::End(STDIN)));
        assert_eq!(soon(far.read(&[RESIZE])).await, Some(Piece::Data(RESIZE, "3".into())));
    }

    #[tokio::test]
    async fn more_than_was_granted_ends_a_stream_and_the_end_of_the_connection_all() {
        let tasks = Tasks::new();
        let (outgoing, mut said) = mpsc::channel(8);
        let mux = Mux::new(&tasks, outgoing);
        let (wrong, other) = (open(&mux, 1).unwrap(), open(&mux, 2).unwrap());
        mux.deliver(StreamFrame { id: 1, channel: STDIN, frame: Some(Frame::Data("x".into())) });
        assert_eq!(soon(wrong.closed()).await.code, 500);
        assert!(matches!(said.recv().await.unwrap().frame, Some(Frame::Close(_))));
        assert_eq!(mux.count(), 1);
        mux.end();
        assert_eq!(soon(other.read(&[STDIN])).await, None);
        assert_eq!(other.closed().await.code, 503);
        assert!(open(&mux, 3).is_none());
    }

    /// Frames as they stand after each other on a connection.
    fn connection(frames: impl IntoIterator<Item = (u64, u32, Frame)>) -> Vec<u8> {
        let frame = |(id, channel, frame)| {
            StreamFrame { id, channel, frame: Some(frame) }.encode_length_delimited_to_vec()
        };
        frames.into_iter().flat_map(frame).collect()
    }

    /// Whatever frames arrive, in whatever order: no panic, and never more memory than was granted.
    #[test]
    fn fuzz_streams() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let window = WINDOW as usize;
        let usual = [
            (0, 0, Frame::Open(Box::default())),
            (0, 0, Frame::Window(WINDOW)),
            (0, STDOUT, Frame::Data("hello".into())),
            (1, RESIZE, Frame::Data("1".into())),
            (0, STDOUT, Frame::Eof(StreamEof {})),
            (0, 0, Frame::Close(StreamClose::default())),
        ];
        let much = (0..=window / 30_000).map(|_| (0, STDOUT, Frame::Data(vec![1; 30_000].into())));
        let odd = [
            (2, 9, Frame::Window(u32::MAX)),
            (2, 0, Frame::Hello(oarlock_api::node::StreamHello::default())),
        ];
        let made = [connection(usual), connection(much), connection(odd)];
        Target::new("streams").with(made).mutations(500).run(|mut input| {
            let tasks = Tasks::new();
            let (outgoing, _said) = mpsc::channel(64);
            let mux = Mux::new(&tasks, outgoing);
            let mut streams = vec![open(&mux, 0).unwrap(), open(&mux, 1).unwrap()];
            streams[0].sender.flow.arrived.lock().granted = window;
            while let Ok(frame) = StreamFrame::decode_length_delimited(&mut input) {
                streams.extend(mux.deliver(frame).map(|(stream, _)| stream));
                for stream in &streams {
                    let kept: usize = stream.sender.flow.arrived.lock().bytes.iter().map(BytesMut::len).sum();
                    assert!(kept <= window + 1024, "{kept}");
                }
            }
        });
    }
}
