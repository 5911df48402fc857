//! Deadlines: the caller's side enforces them, so that they hold whatever is on the other side.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use super::Response;

/// The `grpc-timeout` of a call: at most eight digits and a unit (gRPC over HTTP/2, "Timeout"). One that does not parse is no deadline.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The call, given up `timeout` from now: before its answer with a status, in the middle of its answer by ending the body with one.
pub(super) async fn bound(
    call: BoxFuture<'static, Result<Response, Status>>,
    timeout: Duration,
) -> Result<Response, Status> {
    let end = Instant::now() + timeout;
    match tokio::time::timeout_at(end, call).await {
        Ok(response) => Ok(response?.map(|body| {
            Body::new(Bounded {
                body: Some(body),
                sleep: Box::pin(tokio::time::sleep_until(end)),
                timeout,
            })
        })),
        Err(_) => Err(exceeded(timeout)),
    }
}

fn exceeded(timeout: Duration) -> Status {
    Status::deadline_exceeded(format!("the call took longer than its deadline of {timeout:?}"))
}

struct Bounded {
    body: Option<Body>,
    sleep: Pin<Box<Sleep>>,
    timeout: Duration,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        // The deadline first: a body that always has a frame would never end otherwise.
        if this.sleep.as_mut().poll(cx).is_pending() {
            return Pin::new(body).poll_frame(cx);
        }
        // Dropping the body is what cancels the call.
        this.body = None;
        Poll::Ready(Some(Err(exceeded(this.timeout))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", http::HeaderValue::from_static(value));
        of(&headers)
    }

    #[test]
    fn timeouts_read_as_grpc_writes_them() {
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        for none in ["", "S", "5", "5x", "123456789S", "-1S"] {
            assert_eq!(parse(none), None, "{none:?}");
        }
    }
}
