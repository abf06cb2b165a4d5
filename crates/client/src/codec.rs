//! The codec of our services: protobuf with small buffers. tonic sets aside 16 KiB for each stream before its first
//! message; a watch stream carries some hundred bytes a second, and a control plane holds thousands of them.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a stream begins with. A larger message makes room for itself.
const BUFFER: usize = 1 << 10;
/// As many bytes of ready messages are written in one go. The buffer for them is never given back.
const WRITTEN_AT_ONCE: usize = 4 << 10;

/// Encodes and decodes like [`ProstCodec`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, WRITTEN_AT_ONCE))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, WRITTEN_AT_ONCE))
    }
}
