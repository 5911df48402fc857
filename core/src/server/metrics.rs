//! Prometheus metrics, under the names that containerd's dashboards know (`grpc_server_*`), and Orlop's own (`orlop_*`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use tonic::Code;

/// The daemon's metrics.
pub struct Metrics {
    registry: Registry,
    started: IntCounterVec,
    handled: IntCounterVec,
    seconds: Option<HistogramVec>,
    activity: Arc<AtomicU64>,
}

/// A call that was started; told how it ended, or dropped, which is a cancellation.
pub struct Call {
    started: Instant,
    service: String,
    method: String,
    handled: IntCounterVec,
    seconds: Option<HistogramVec>,
    counted: bool,
    activity: Arc<AtomicU64>,
}

// === impl Metrics ===

impl Metrics {
    /// Metrics, with call times if `[metrics] grpc_histogram` asks for them.
    pub fn new(histogram: bool) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let started = IntCounterVec::new(
            Opts::new(
                "grpc_server_started_total",
                "Total number of RPCs started on the server.",
            ),
            &["grpc_service", "grpc_method"],
        )?;
        let handled = IntCounterVec::new(
            Opts::new(
                "grpc_server_handled_total",
                "Total number of RPCs completed on the server, whatever the result.",
            ),
            &["grpc_service", "grpc_method", "grpc_code"],
        )?;
        registry.register(Box::new(started.clone()))?;
        registry.register(Box::new(handled.clone()))?;
        let seconds = if histogram {
            let seconds = HistogramVec::new(
                HistogramOpts::new("grpc_server_handling_seconds", "Seconds from start to end of an RPC."),
                &["grpc_service", "grpc_method"],
            )?;
            registry.register(Box::new(seconds.clone()))?;
            Some(seconds)
        } else {
            None
        };
        Ok(Self {
            registry,
            started,
            handled,
            seconds,
            activity: Arc::default(),
        })
    }

    /// Counts a call that begins.
    pub fn started(&self, service: &str, method: &str) -> Call {
        self.started.with_label_values(&[service, method]).inc();
        self.activity.fetch_add(1, Ordering::Relaxed);
        Call {
            started: Instant::now(),
            service: service.to_owned(),
            method: method.to_owned(),
            handled: self.handled.clone(),
            seconds: self.seconds.clone(),
            counted: false,
            activity: self.activity.clone(),
        }
    }

    /// A number that grows whenever a call begins or ends.
    pub fn activity(&self) -> u64 {
        self.activity.load(Ordering::Relaxed)
    }

    /// All metrics in Prometheus' text form.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        // Encoding into memory fails only for metrics without a name, and ours have one.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

// === impl Call ===

impl Call {
    /// The call ended with a gRPC code.
    pub fn handled(mut self, code: i32) {
        self.count(Code::from_i32(code));
    }

    fn count(&mut self, code: Code) {
        self.counted = true;
        self.handled
            .with_label_values(&[self.service.as_str(), self.method.as_str(), code_name(code)])
            .inc();
        if let Some(seconds) = &self.seconds {
            seconds
                .with_label_values(&[self.service.as_str(), self.method.as_str()])
                .observe(self.started.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.counted {
            self.count(Code::Cancelled);
        }
        self.activity.fetch_add(1, Ordering::Relaxed);
    }
}

/// A code as the Go library that dashboards were made for writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_how_they_end() {
        let metrics = Metrics::new(true).expect("metrics");
        metrics.started("s", "m").handled(0);
        metrics.started("s", "m").handled(5);
        drop(metrics.started("s", "m"));
        let text = metrics.text();
        for line in [
            r#"grpc_server_started_total{grpc_method="m",grpc_service="s"} 3"#,
            r#"grpc_server_handled_total{grpc_code="OK",grpc_method="m",grpc_service="s"} 1"#,
            r#"grpc_server_handled_total{grpc_code="NotFound",grpc_method="m",grpc_service="s"} 1"#,
            r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="m",grpc_service="s"} 1"#,
            r#"grpc_server_handling_seconds_count{grpc_method="m",grpc_service="s"} 3"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
