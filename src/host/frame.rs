//! Frames between the jump host and an agent: a header of thirteen bytes
//! (payload length, kind, request id; big endian) and a payload. Requests,
//! notices and responses are JSON; bodies are raw bytes.

use super::{Failure, Notice, Request, Response, RunInHand};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use tokio_util::codec::{Decoder, Encoder};

/// Raised when a frame's meaning changes; both sides must have the same.
pub const PROTOCOL_VERSION: u32 = 7;
/// Begins the line after which frames come. Shells print banners before it.
pub const MAGIC: &str = "COFFERDAM-AGENT ";
/// Bodies are cut into pieces of at most this size, in bytes: small enough that
/// one is soon over a slow link, which many hosts share, and seen to move.
pub const BODY_PIECE: usize = 256 << 10;
/// Pieces of one body that may be on their way or wait for their reader: 8 MiB,
/// enough for a fast link across a continent, little enough for a small host.
/// A sender waits for [`Frame::BodyTaken`] then, so that whoever reads the
/// stream never waits for the reader of one body.
pub const BODY_WINDOW: usize = 32;
/// The largest payload, in bytes: rendered files and manifests of a large
/// host fit many times over, and a garbled length is found at once.
const LARGEST_PAYLOAD: usize = 64 << 20;
const HEADER: usize = 13;

/// What an agent says of itself in its first line, as JSON after [`MAGIC`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// Version of cofferdam.
    pub version: String,
    /// sha256 of the agent's own binary.
    pub digest: crate::digest::Digest,
    /// The run that held the host's lock when the agent started.
    #[serde(default)]
    pub run: Option<RunInHand>,
}

/// One frame.
#[derive(Debug)]
pub enum Frame {
    /// To the agent.
    Request {
        id: u64,
        request: Box<Request>,
    },
    Body {
        id: u64,
        bytes: Bytes,
    },
    BodyEnd {
        id: u64,
    },
    /// The body can't be finished.
    BodyAbort {
        id: u64,
    },
    /// Nobody waits for the answer any more: what may be stopped is, before the
    /// next frame is read.
    Cancel {
        id: u64,
    },
    /// The jump host lives.
    Heartbeat,
    /// To the jump host.
    Notice {
        id: u64,
        notice: Notice,
    },
    /// The reader of a body is done with one piece of it.
    BodyTaken {
        id: u64,
    },
    Response {
        id: u64,
        result: Box<Result<Response, Failure>>,
    },
}

/// Encodes and decodes [`Frame`]s.
#[derive(Debug, Default)]
pub struct FrameCodec;

const REQUEST: u8 = 1;
const BODY: u8 = 2;
const BODY_END: u8 = 3;
const BODY_ABORT: u8 = 4;
const HEARTBEAT: u8 = 5;
const CANCEL: u8 = 6;
const NOTICE: u8 = 16;
const RESPONSE: u8 = 17;
const BODY_TAKEN: u8 = 18;

impl Frame {
    fn parts(&self) -> io::Result<(u8, u64, Bytes)> {
        fn json(value: &impl Serialize) -> io::Result<Bytes> {
            Ok(serde_json::to_vec(value)?.into())
        }
        Ok(match self {
            Self::Request { id, request } => (REQUEST, *id, json(request)?),
            Self::Body { id, bytes } => (BODY, *id, bytes.clone()),
            Self::BodyEnd { id } => (BODY_END, *id, Bytes::new()),
            Self::BodyAbort { id } => (BODY_ABORT, *id, Bytes::new()),
            Self::Cancel { id } => (CANCEL, *id, Bytes::new()),
            Self::Heartbeat => (HEARTBEAT, 0, Bytes::new()),
            Self::Notice { id, notice } => (NOTICE, *id, json(notice)?),
            Self::BodyTaken { id } => (BODY_TAKEN, *id, Bytes::new()),
            Self::Response { id, result } => (RESPONSE, *id, json(result)?),
        })
    }

    /// Header and payload, apart so that a body need not be copied.
    ///
    /// # Errors
    /// When a value can't be told in JSON or the payload is too large.
    pub fn encode(&self) -> io::Result<(Bytes, Bytes)> {
        let (kind, id, payload) = self.parts()?;
        if payload.len() > LARGEST_PAYLOAD {
            let message = format!("a frame of {} bytes is too large", payload.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut header = BytesMut::with_capacity(HEADER);
        // Checked above to be far below 4 GiB.
        header.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        header.put_u8(kind);
        header.put_u64(id);
        Ok((header.freeze(), payload))
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = io::Error;

    fn encode(&mut self, frame: Frame, buffer: &mut BytesMut) -> io::Result<()> {
        let (header, payload) = frame.encode()?;
        buffer.extend_from_slice(&header);
        buffer.extend_from_slice(&payload);
        Ok(())
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
        let Some(mut header) = buffer.get(..HEADER) else {
            return Ok(None);
        };
        let length = header.get_u32() as usize;
        let kind = header.get_u8();
        let id = header.get_u64();
        if length > LARGEST_PAYLOAD {
            let message = format!("a frame claims {length} bytes; the stream is garbled");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if buffer.len() < HEADER + length {
            buffer.reserve(HEADER + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEADER);
        let payload = buffer.split_to(length).freeze();
        Ok(Some(match kind {
            REQUEST => Frame::Request {
                id,
                request: serde_json::from_slice(&payload)?,
            },
            BODY => Frame::Body { id, bytes: payload },
            BODY_END => Frame::BodyEnd { id },
            BODY_ABORT => Frame::BodyAbort { id },
            CANCEL => Frame::Cancel { id },
            HEARTBEAT => Frame::Heartbeat,
            NOTICE => Frame::Notice {
                id,
                notice: from_host(&payload)?,
            },
            BODY_TAKEN => Frame::BodyTaken { id },
            RESPONSE => Frame::Response {
                id,
                result: from_host(&payload)?,
            },
            other => {
                let message = format!("a frame has the unknown kind {other}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }))
    }
}

/// Reads what a host says. Its texts end up on a terminal, where control
/// characters could rewrite what a person is about to confirm: those but line
/// ends and tabs are replaced.
///
/// # Errors
/// When it is not what it should be.
pub fn from_host<T: serde::de::DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_slice(json)?;
    clean(&mut value);
    serde_json::from_value(value)
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) => clean_text(text),
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(fields) => {
            let is_clean = |name: &String| !name.contains(is_harmful);
            if !fields.keys().all(is_clean) {
                let old = std::mem::take(fields);
                fields.extend(old.into_iter().map(|(mut name, value)| {
                    clean_text(&mut name);
                    (name, value)
                }));
            }
            fields.values_mut().for_each(clean);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn clean_text(text: &mut String) {
    if text.contains(is_harmful) {
        *text = text.replace(is_harmful, "\u{fffd}");
    }
}

fn is_harmful(character: char) -> bool {
    character.is_control() && !matches!(character, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::OutputStream;

    fn round_trip(frame: Frame) -> Frame {
        let mut buffer = BytesMut::new();
        FrameCodec.encode(frame, &mut buffer).unwrap();
        let mut partial = BytesMut::new();
        for byte in &buffer[..buffer.len() - 1] {
            partial.put_u8(*byte);
            assert!(FrameCodec.decode(&mut partial).unwrap().is_none());
        }
        partial.put_u8(buffer[buffer.len() - 1]);
        FrameCodec.decode(&mut partial).unwrap().unwrap()
    }

    #[test]
    fn nothing_that_a_host_says_moves_the_cursor() {
        let message = "it is\u{1b}[2J\u{9b}1Aup\tat\nlast\r".to_owned();
        let failure = Failure {
            message,
            lines: vec!["\u{7}".to_owned()],
            hint: None,
        };
        let result = Box::new(Err(failure));
        let Frame::Response { result, .. } = round_trip(Frame::Response { id: 1, result }) else {
            unreachable!()
        };
        let found = result.unwrap_err();
        let expected = "it is\u{fffd}[2J\u{fffd}1Aup\tat\nlast\u{fffd}";
        assert_eq!(found.message, expected);
        assert_eq!(found.lines, ["\u{fffd}"]);
    }

    #[test]
    fn frames_survive_arriving_byte_by_byte() {
        let notice = Notice::Output {
            stream: OutputStream::Stderr,
            bytes: vec![0, 255, 10],
        };
        let Frame::Notice {
            id: 7,
            notice: found,
        } = round_trip(Frame::Notice {
            id: 7,
            notice: notice.clone(),
        })
        else {
            unreachable!()
        };
        assert_eq!(found, notice);
        let failure = Failure {
            message: "m".into(),
            lines: vec!["l".into()],
            hint: None,
        };
        let result = Box::new(Err(failure.clone()));
        let Frame::Response { result, .. } = round_trip(Frame::Response { id: 1, result }) else {
            unreachable!()
        };
        assert_eq!(result.unwrap_err(), failure);
        let bytes = Bytes::from(vec![9; 1000]);
        let Frame::Body { bytes: found, .. } = round_trip(Frame::Body {
            id: 2,
            bytes: bytes.clone(),
        }) else {
            unreachable!()
        };
        assert_eq!(found, bytes);
    }

    #[test]
    fn a_garbled_stream_is_an_error() {
        let mut buffer = BytesMut::from(&[0xff; 20][..]);
        assert!(FrameCodec.decode(&mut buffer).is_err());
        let mut buffer = BytesMut::from(&[0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0][..]);
        assert!(FrameCodec.decode(&mut buffer).is_err());
    }
}
