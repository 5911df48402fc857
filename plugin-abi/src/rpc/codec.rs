//! Messages as the transport sees them: bytes in, something that encodes itself out. One codec for all of them, so that the machinery
//! of a call is in a library once and not once a message.

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use tonic::{Code, Status};

use crate::{Error, Result};

/// The largest message either side takes where nothing else is configured, as in containerd (`defaults.DefaultMaxRecvMsgSize`).
pub(super) const MAX_MESSAGE: usize = 16 << 20;

/// How large the messages of a call may be, in bytes: an extension of its request, put there by whoever accepted the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Of what the caller sends.
    pub receive: usize,
    /// Of what it is answered.
    pub send: usize,
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self {
            receive: MAX_MESSAGE,
            send: MAX_MESSAGE,
        }
    }
}

/// What a buffer starts with. Messages are mostly small, and those that are not say their size first.
const BUFFER: usize = 1 << 10;
/// How much of a stream is gathered into one frame.
const GATHER: usize = 32 << 10;

/// A message on its way out.
pub(super) type Outgoing = Box<dyn Encode>;

pub(super) trait Encode: Send + Sync {
    fn length(&self) -> usize;
    fn encode_into(&self, buffer: &mut EncodeBuf<'_>);
}

impl<M: prost::Message> Encode for M {
    fn length(&self) -> usize {
        self.encoded_len()
    }

    fn encode_into(&self, buffer: &mut EncodeBuf<'_>) {
        buffer.reserve(self.encoded_len());
        self.encode_raw(buffer);
    }
}

/// Reads a message that has arrived.
pub(super) fn decode<M: prost::Message + Default>(bytes: Bytes) -> Result<M> {
    M::decode(bytes).map_err(|error| Error::internal(format!("a message does not decode: {error}")))
}

#[derive(Clone, Copy, Default)]
pub(super) struct Raw;

impl Codec for Raw {
    type Encode = Outgoing;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Outgoing;
    type Error = Status;

    fn encode(&mut self, message: Outgoing, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode_into(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, GATHER)
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, GATHER)
    }
}

/// How a cancelled request says so where tonic must not see it: for tonic a cancelled request is one that has ended well, and half of
/// what a client meant to send would pass for all of it.
const CANCELLED: &str = "the caller has given up the call";

/// The body of a request, whose cancellation is an error.
pub(super) fn request_body(body: Body) -> Body {
    Body::new(body.map_err(|status| match status.code() {
        Code::Cancelled => Status::aborted(CANCELLED),
        _ => status,
    }))
}

/// A status as an error. What is too large has gRPC's code for it, which tonic does not use.
pub(super) fn error(status: &Status) -> Error {
    let code = match status.code() {
        Code::OutOfRange if status.message().contains("message length too large") => Code::ResourceExhausted,
        Code::Aborted if status.message() == CANCELLED => Code::Cancelled,
        code => code,
    };
    Error::new(code, status.message())
}
