//! Signals by name or number, as `--signal` and images' stop signals have them.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::str::FromStr;

/// The number of `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3` or `RTMAX-1`.
pub fn parse(text: &str) -> Result<u32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        ensure!(
            (1..=nix::libc::SIGRTMAX()).contains(&number),
            "invalid signal {text:?}: no such number"
        );
        return Ok(number as u32);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = realtime(name) {
        return Ok(number);
    }
    let signal = Signal::from_str(&format!("SIG{name}"));
    Ok(signal
        .ok()
        .with_context(|| format!("invalid signal {text:?}: expected a name like SIGTERM or a number"))? as u32)
}

fn realtime(name: &str) -> Option<u32> {
    let (low, high) = (nix::libc::SIGRTMIN(), nix::libc::SIGRTMAX());
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => low,
        (_, Some("")) => high,
        (Some(offset), _) => low + offset.strip_prefix('+')?.parse::<u8>().ok().map(i32::from)?,
        (_, Some(offset)) => high - offset.strip_prefix('-')?.parse::<u8>().ok().map(i32::from)?,
        _ => return None,
    };
    (low..=high).contains(&number).then_some(number as u32)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers() {
        for text in ["TERM", "SIGTERM", "sigterm", "15", " term "] {
            assert_eq!(parse(text).unwrap(), 15, "{text}");
        }
        assert_eq!(parse("RTMIN+3").unwrap(), nix::libc::SIGRTMIN() as u32 + 3);
        assert_eq!(parse("SIGRTMAX").unwrap(), nix::libc::SIGRTMAX() as u32);
        for bad in ["", "0", "-9", "65", "SIGNOT", "RTMIN+99", "RTMIN3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
