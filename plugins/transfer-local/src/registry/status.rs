//! Answers that are not what was asked for, as errors.

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use orlop_plugin::Error;
use orlop_plugin::contract::Code;
use serde::Deserialize;
use std::fmt::Write as _;
use std::time::Duration;

use super::http::Transport;

/// Of what a registry says of an error, so much is read.
const MAX_EXPLANATION: u64 = 16 << 10;

/// A registry that wants to be left alone for longer than this is given up, so that a person can decide.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// `{"errors": [{"code": "…", "message": "…"}]}`.
#[derive(Deserialize)]
struct Explanation {
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The error of an answer, with what the registry says of it.
pub async fn unexpected(transport: &Transport, response: Response<Incoming>) -> Error {
    let status = response.status();
    let wait = retry_after(response.headers());
    let mut message = status.to_string();
    let body = transport
        .read_all(response.into_body(), MAX_EXPLANATION)
        .await
        .unwrap_or_default();
    if let Ok(explanation) = serde_json::from_slice::<Explanation>(&body) {
        for Reason { code, message: text } in explanation.errors {
            let _ = write!(message, "; {code}: {text}");
        }
    }
    // Proxies explain themselves in plain text.
    else if let Ok(text) = std::str::from_utf8(&body)
        && !text.trim_start().starts_with('<')
        && let Some(line) = text.lines().find(|line| !line.trim().is_empty())
    {
        let _ = write!(message, "; {}", line.chars().take(200).collect::<String>());
    }
    let hint = match status {
        StatusCode::UNAUTHORIZED => ": the registry wants other credentials (--user NAME:PASSWORD)",
        StatusCode::TOO_MANY_REQUESTS => ": the registry allows no more requests for now",
        _ => "",
    };
    if let Some(wait) = wait {
        let _ = write!(message, "; it asks to come again in {} s", wait.as_secs());
    }
    Error::new(code_of(status), message + hint)
}

/// The code that means what `status` means.
pub fn code_of(status: StatusCode) -> Code {
    match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND | StatusCode::GONE => Code::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::RANGE_NOT_SATISFIABLE => Code::OutOfRange,
        status if status.is_server_error() => Code::Unavailable,
        _ => Code::FailedPrecondition,
    }
}

/// Whether another try may bring another answer.
fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long an answer asks to be left alone; a date is not worth its parser.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether an answer is worth another try, soon.
pub fn is_worth_a_retry<B>(answer: &Response<B>) -> bool {
    is_transient(answer.status()) && retry_after(answer.headers()).is_none_or(|wait| wait <= MAX_RETRY_AFTER)
}
