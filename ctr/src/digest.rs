//! Digests: `ALGORITHM:HEX`.

use anyhow::{Context, Result, bail};

/// `text`, when it is a digest: an algorithm and its hexadecimal value.
pub fn parse(text: &str) -> Result<&str> {
    let (algorithm, value) = text
        .split_once(':')
        .with_context(|| format!("invalid checksum digest format: {text:?}"))?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => bail!("unsupported digest algorithm {algorithm:?} in {text:?}"),
    };
    if value.len() != length || !value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        bail!("invalid checksum digest length or format: {text:?}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn digests_are_checked() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert_eq!(parse(&good).unwrap(), good);
        for bad in [
            "",
            "sha256",
            "sha256:abc",
            "md5:00",
            &format!("sha256:{}", "A".repeat(64)),
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
