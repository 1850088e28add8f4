//! The codec against itself, against recorded bytes and against anything.

use oarlock_fuzz::Target;
use proptest::prelude::*;

use super::dictionary::DICTIONARY;
use super::*;

/// How headers of Kubernetes' clients look unpacked.
const STREAM: [(&str, &str); 2] = [("streamtype", "stdout"), ("port", "80")];

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

fn frames(bytes: &[u8], cut: usize) -> Result<Vec<Frame>, frame::FrameError> {
    let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    for part in bytes.chunks(cut.max(1)) {
        buffer.extend_from_slice(part);
        while let Some(frame) = decoder.next(&mut buffer)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

#[test]
fn the_dictionary_is_that_of_the_specification() {
    assert_eq!(DICTIONARY.len(), 1423);
    let mut deflate = Deflate::default();
    let packed = deflate.pack(&headers::block(&STREAM)).unwrap();
    // What every connection begins with: the method, a mark, the Adler-32 of the dictionary.
    assert_eq!(packed[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    assert_eq!(packed[0] & 0x0f, 8);
    assert_ne!(packed[1] & 0x20, 0);
}

#[test]
fn blocks_are_packed_as_one() {
    let (mut deflate, mut inflate) = (Deflate::default(), Inflate::default());
    for _ in 0..3 {
        let packed = deflate.pack(&headers::block(&STREAM)).unwrap();
        assert_eq!(inflate.read(&packed).unwrap(), owned(&STREAM));
    }
    assert_eq!(inflate.read(&deflate.none().unwrap()).unwrap(), []);
    // Out of order they cannot be read.
    let later = deflate.pack(&headers::block(&STREAM)).unwrap();
    assert!(Inflate::default().read(&later).is_err());
}

#[test]
fn a_block_that_grows_without_end_is_refused() {
    let mut deflate = Deflate::default();
    let many = vec![b'a'; 60 * 1024];
    let text = String::from_utf8(many).unwrap();
    let packed = deflate.pack(&headers::block(&[("a", &text), ("b", &text)])).unwrap();
    assert_eq!(Inflate::default().read(&packed), Err(headers::HeadersError::TooLong));
}

#[test]
fn frames_are_read_wherever_they_are_cut() {
    let mut bytes = Vec::new();
    bytes.extend(frame::open(1, b"block"));
    bytes.extend(frame::data(1, b"hello", true));
    bytes.extend(frame::ping(1));
    bytes.extend(frame::reset(1));
    bytes.extend(frame::data(3, b"", true));
    // GOAWAY, and a type that nobody knows.
    bytes.extend([0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0x80, 3, 0, 99, 0, 0, 0, 0]);
    for cut in 1..bytes.len() {
        let mut hello = Vec::new();
        let mut others = Vec::new();
        for frame in frames(&bytes, cut).unwrap() {
            match frame {
                Frame::Data { id: 1, bytes, last } => {
                    hello.extend_from_slice(&bytes);
                    assert_eq!(last, hello.len() == 5);
                }
                other => others.push(other),
            }
        }
        assert_eq!(hello, b"hello");
        let wanted = [
            Frame::Open { id: 1, block: "block".into(), last: false },
            Frame::Ping(1),
            Frame::Reset(1),
            Frame::Data { id: 3, bytes: Bytes::new(), last: true },
            Frame::Other,
            Frame::Other,
        ];
        assert_eq!(others, wanted, "cut at {cut}");
    }
}

#[test]
fn what_is_no_spdy_is_said() {
    let http = b"GET / HTTP/1.1\r\n";
    assert!(frames(http, 99).is_ok(), "a frame of data, as far as anybody can tell");
    let version = frames(&[0x80, 2, 0, 1, 0, 0, 0, 0], 8).unwrap_err();
    assert_eq!(version, frame::FrameError::Version(2));
    let long = frames(&[0x80, 3, 0, 1, 0, 255, 255, 255], 8).unwrap_err();
    assert!(long.to_string().contains("16777215 bytes"), "{long}");
    let short = frames(&[0x80, 3, 0, 1, 0, 0, 0, 1, 0], 9).unwrap_err();
    assert_eq!(short, frame::FrameError::TooShort(1));
}

#[tokio::test]
async fn streams_are_accepted_and_carry_data_both_ways() {
    let (near, far) = tokio::io::duplex(1024);
    let (mut reader, writer, writing) = split(far);
    let server = async move {
        let opened = reader.next().await.unwrap();
        assert_eq!(opened, Some(Event::Opened { id: 1, headers: owned(&STREAM), last: false }));
        let data = reader.next().await.unwrap();
        assert_eq!(data, Some(Event::Data { id: 1, bytes: "ping".into(), last: true }));
        writer.data(1, vec![7; 100_000].into(), true).await.unwrap();
        drop(writer);
        assert_eq!(reader.next().await.unwrap(), None);
    };
    let client = async move {
        let mut client = client::Client::new(near);
        client.open(1, &STREAM).await;
        client.data(1, b"ping", true).await;
        let mut got = 0;
        while let Some((1, bytes, last)) = client.next().await {
            got += bytes.len();
            if last {
                break;
            }
        }
        assert_eq!(got, 100_000);
    };
    let (written, (), ()) = tokio::join!(writing, server, client);
    written.unwrap();
}

/// What a client sends over a connection: streams are opened, data, a ping.
fn connection() -> Vec<u8> {
    let mut deflate = Deflate::default();
    let mut bytes = Vec::new();
    for id in [1, 3] {
        bytes.extend(frame::open(id, &deflate.pack(&headers::block(&STREAM)).unwrap()));
    }
    bytes.extend(frame::data(1, b"hello", false));
    bytes.extend(frame::ping(1));
    bytes.extend(frame::data(1, b"", true));
    bytes.extend(frame::reset(3));
    bytes
}

/// However the bytes are cut, they are the same frames, and what is read of blocks of headers is bounded.
#[test]
fn fuzz_spdy() {
    Target::new("spdy").with([connection()]).run(|input| {
        let (whole, cut) = (frames(input, usize::MAX), frames(input, 1 + input.len() / 3));
        assert_eq!(whole.is_ok(), cut.is_ok());
        let (mut inflate, mut data) = (Inflate::default(), 0);
        for frame in whole.iter().flatten() {
            match frame {
                Frame::Open { block, .. } | Frame::Headers(block) => {
                    let Ok(headers) = inflate.read(block) else { return };
                    assert!(
                        headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() < 1 << 20
                    );
                }
                Frame::Data { bytes, .. } => data += bytes.len(),
                _ => {}
            }
        }
        assert!(data <= input.len());
    });
}

/// Blocks of headers, as they are and as somebody has packed them.
#[test]
fn fuzz_spdy_headers() {
    let blocks = [headers::block(&STREAM), Deflate::default().pack(&headers::block(&STREAM)).unwrap()];
    Target::new("spdy_headers").with(blocks).run(|input| {
        let _ = Inflate::default().read(input);
        let packed = Deflate::default().pack(input).unwrap();
        let _ = Inflate::default().read(&packed);
    });
}

proptest! {
    #[test]
    fn data_arrives_as_it_was_sent(pieces in proptest::collection::vec((1_u32..9, proptest::collection::vec(any::<u8>(), 0..200)), 0..20), cut in 1_usize..64) {
        let bytes: Vec<u8> = pieces.iter().flat_map(|(id, piece)| frame::data(*id, piece, false)).collect();
        let mut got = std::collections::BTreeMap::<u32, Vec<u8>>::new();
        for frame in frames(&bytes, cut).unwrap() {
            let Frame::Data { id, bytes, last: false } = frame else { panic!("{frame:?}") };
            got.entry(id).or_default().extend_from_slice(&bytes);
        }
        let mut sent = std::collections::BTreeMap::<u32, Vec<u8>>::new();
        for (id, piece) in pieces {
            sent.entry(id).or_default().extend(piece);
        }
        prop_assert_eq!(got, sent);
    }
}
