//! Events to the daemon, in order. A daemon that is away gets them when it is back.

use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use ttrpc::asynchronous::transport::Socket;

use crate::reaper::Reaper;

/// More than this many are not kept for a daemon that stays away: the oldest go first.
const KEPT: usize = 4096;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where events go.
pub struct Target {
    pub namespace: String,
    /// The daemon's ttrpc socket; without one, the program is run for each event.
    pub ttrpc: String,
    pub program: String,
    pub grpc: String,
}

pub struct Publisher {
    target: Target,
    queue: Mutex<VecDeque<Envelope>>,
    added: Notify,
    emptied: Notify,
}

// === impl Publisher ===

impl Publisher {
    pub fn new(target: Target) -> Arc<Self> {
        Arc::new(Self {
            target,
            queue: Mutex::default(),
            added: Notify::new(),
            emptied: Notify::new(),
        })
    }

    /// Queues an event. Its type is named: asking the message would load its description into every shim.
    pub fn publish(&self, topic: &str, kind: &str, event: &impl Message) {
        let Ok(value) = event.write_to_bytes() else {
            return;
        };
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())).into(),
            namespace: self.target.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(Any {
                type_url: format!("containerd.events.{kind}"),
                value,
                ..Any::default()
            })
            .into(),
            ..Envelope::default()
        };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() == KEPT {
            queue.pop_front();
            crate::log(
                "warning",
                "the daemon has been away for long: the oldest event is dropped",
            );
        }
        queue.push_back(envelope);
        self.added.notify_one();
    }

    /// Sends what is queued, for ever.
    pub async fn run(self: Arc<Self>, reaper: Arc<Reaper>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let sent = if self.target.ttrpc.is_empty() {
                self.run_program(&reaper).await
            } else {
                self.forward().await
            };
            if self.first().is_none() {
                pause = FIRST_PAUSE;
                self.emptied.notify_waiters();
                self.added.notified().await;
                continue;
            }
            if let Err(error) = sent {
                crate::log("debug", &format!("events wait for the daemon: {error}"));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Waits until all is sent, but not for ever.
    pub async fn flush(&self, patience: Duration) {
        let emptied = self.emptied.notified();
        if self.first().is_some() {
            let _ = tokio::time::timeout(patience, emptied).await;
        }
    }

    fn first(&self) -> Option<Envelope> {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .front()
            .cloned()
    }

    fn sent(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front();
        if queue.is_empty() {
            *queue = VecDeque::new();
        }
    }

    /// Sends all there is on one connection, which does not outlive them: an idle shim keeps none.
    async fn forward(&self) -> Result<(), String> {
        let path = self.target.ttrpc.strip_prefix("unix://").unwrap_or(&self.target.ttrpc);
        if self.first().is_none() {
            return Ok(());
        }
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| format!("{path}: {error}"))?;
        let events = EventsClient::new(Client::new(Socket::new(stream)));
        while let Some(envelope) = self.first() {
            let request = ForwardRequest {
                envelope: Some(envelope).into(),
                ..ForwardRequest::default()
            };
            let mut context = ttrpc::context::with_duration(ANSWER);
            context.add("containerd-namespace-ttrpc".to_owned(), self.target.namespace.clone());
            match events.forward(context, &request).await {
                Ok(_) => self.sent(),
                // The daemon has refused it, and will again.
                Err(ttrpc::Error::RpcStatus(status)) if status.code() != ttrpc::Code::UNAVAILABLE => {
                    crate::log("error", &format!("the daemon refuses an event: {}", status.message));
                    self.sent();
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// `containerd publish`, for daemons without ttrpc.
    async fn run_program(&self, reaper: &Reaper) -> Result<(), String> {
        while let Some(envelope) = self.first() {
            if self.target.program.is_empty() {
                self.sent();
                continue;
            }
            let event = envelope.event.write_to_bytes().map_err(|error| error.to_string())?;
            let mut command = Command::new(&self.target.program);
            command
                .args(["--address", &self.target.grpc, "publish", "--topic", &envelope.topic])
                .args(["--namespace", &envelope.namespace])
                .stdin(Stdio::piped())
                .stdout(Stdio::null());
            let mut child = command.spawn().map_err(|error| error.to_string())?;
            let ended = reaper.expect(child.id() as i32);
            // An event is smaller than a pipe.
            let fed = child
                .stdin
                .take()
                .map(|mut stdin| std::io::Write::write_all(&mut stdin, &event));
            let exit = ended.await.map_err(|error| error.to_string())?;
            match fed {
                Some(Ok(())) if exit.status == 0 => self.sent(),
                _ => return Err(format!("{} ended with status {}", self.target.program, exit.status)),
            }
        }
        Ok(())
    }
}

/// Protobuf's time.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: since.as_secs() as i64,
        nanos: since.subsec_nanos() as i32,
        ..Timestamp::default()
    }
}
