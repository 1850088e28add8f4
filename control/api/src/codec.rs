//! How messages of the protocol between control plane and agents are written to and read from a connection: as tonic does it, with
//! small buffers. A control plane holds them for each of thousands of nodes, most of which have nothing to say at a time.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a buffer begins with, in bytes; longer messages have it grow. tonic's own is 8 KiB, in each direction of each call.
const BUFFER: usize = 512;
/// After so many bytes messages that are ready are sent. tonic's own are 32 KiB, and a call keeps the buffer that had them.
const BATCH: usize = 8 * 1024;

/// The codec of all calls between control plane and agents.
#[derive(Debug)]
pub struct LeanCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for LeanCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for LeanCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, BATCH))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, BATCH))
    }
}
