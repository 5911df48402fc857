//! Running the programs of a way one behind the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, try_join_all};
use futures_util::stream;
use orlop_plugin::bytes::{Bytes, BytesMut};
use orlop_plugin::contract::{Any, BoxStream};
use orlop_plugin::{Error, Result};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};

use super::Step;
use super::program::Program;

/// How much of the last program's output is taken at once.
const PIECE: usize = 256 << 10;

/// Programs that run one behind the other, all killed when this and its output are dropped.
pub(crate) struct Pipeline(Arc<Mutex<Vec<Program>>>);

/// The output of a pipeline, and what it still takes to come about.
struct Output {
    stdout: ChildStdout,
    /// Writes the first program's input; `None` when it is written.
    feed: Option<BoxFuture<'static, Result<()>>>,
    programs: Arc<Mutex<Vec<Program>>>,
    buffer: BytesMut,
}

// === impl Pipeline ===

impl Pipeline {
    /// Starts the programs of `steps`, the first of which gets `content`. What comes out ends well only if all of them did.
    pub(crate) async fn start(
        steps: Vec<Step>,
        payloads: &BTreeMap<String, Any>,
        content: BoxStream<Bytes>,
    ) -> Result<(Self, BoxStream<Bytes>)> {
        let (mut programs, mut input, mut output) = (Vec::new(), None, None::<ChildStdout>);
        for step in steps {
            let payload = payloads.get(&step.processor.id).map(Message::encode_to_vec);
            let before = output.map(TryInto::<Stdio>::try_into).transpose();
            let before = before.map_err(|error| Error::io("connect stream processors", &error))?;
            let (program, stdin, stdout) = Program::start(step, before, payload).await?;
            programs.push(program);
            input = input.or(stdin);
            output = Some(stdout);
        }
        let programs = Arc::new(Mutex::new(programs));
        let stdout = output.ok_or_else(|| Error::internal("a pipeline of no programs"))?;
        let output = Output {
            stdout,
            feed: input.map(|input| Box::pin(feed(input, content)) as _),
            programs: programs.clone(),
            buffer: BytesMut::new(),
        };
        let pieces = stream::unfold(Some(output), |output| async move {
            let mut output = output?;
            match output.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(output))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok((Self(programs), pieces.boxed()))
    }

    /// `error`, which applying the output came to, with what the programs have said.
    pub(crate) fn explain(&self, mut error: Error) -> Error {
        for program in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let said = program.said();
            if !said.is_empty() && !error.message.contains(&said) {
                let _ = write!(error.message, " (the stream processor {} says: {said})", program.id());
            }
        }
        error
    }
}

// === impl Output ===

impl Output {
    /// The next piece; `None` at the end, when every program has ended well.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.buffer.reserve(PIECE);
        loop {
            let read = tokio::select! {
                fed = fed(&mut self.feed) => {
                    self.feed = None;
                    fed?;
                    continue;
                }
                read = self.stdout.read_buf(&mut self.buffer) => read,
            };
            let length = read.map_err(|error| Error::io("read from a stream processor", &error))?;
            if length > 0 {
                return Ok(Some(self.buffer.split().freeze()));
            }
            self.end().await?;
            return Ok(None);
        }
    }

    /// Waits for the programs, and, as they may still read it, goes on with their input meanwhile.
    async fn end(&mut self) -> Result<()> {
        let mut programs = std::mem::take(&mut *self.programs.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = {
            let ended = try_join_all(programs.iter_mut().map(Program::end));
            tokio::pin!(ended);
            loop {
                tokio::select! {
                    fed = fed(&mut self.feed) => {
                        self.feed = None;
                        fed?;
                    }
                    ended = &mut ended => break ended,
                }
            }
        };
        if let Err(error) = ended {
            // What the others have said may be why.
            *self.programs.lock().unwrap_or_else(PoisonError::into_inner) = programs;
            return Err(error);
        }
        Ok(())
    }
}

/// Drives the feed while there is one.
async fn fed(feed: &mut Option<BoxFuture<'static, Result<()>>>) -> Result<()> {
    match feed {
        Some(feed) => feed.await,
        None => std::future::pending().await,
    }
}

/// Writes `content` to the first program. One that has read enough is free to close its stdin: its exit says if it is content.
async fn feed(mut stdin: ChildStdin, mut content: BoxStream<Bytes>) -> Result<()> {
    while let Some(piece) = content.next().await {
        if stdin.write_all(&piece?).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
