//! The small languages of flag values: mounts, labels, annotations, namespaces, id mappings, environments.

use super::model::{IdMapping, Mount, Namespace};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;

/// Reads `type=bind,src=/a,dst=/b,options=rbind:ro`. A field may be quoted as in CSV, so that a path can hold a comma.
pub fn mount(text: &str) -> Result<Mount> {
    let mut mount = Mount::default();
    for field in csv_fields(text)? {
        let (key, value) = field
            .split_once('=')
            .with_context(|| format!("invalid mount specification {text:?}: expected key=val, not {field:?}"))?;
        match key {
            "type" => value.clone_into(&mut mount.kind),
            "source" | "src" => value.clone_into(&mut mount.source),
            "destination" | "dst" => value.clone_into(&mut mount.destination),
            "options" => mount.options = value.split(':').map(str::to_owned).collect(),
            _ => bail!("mount option {key:?} not supported: use type, src, dst and options"),
        }
    }
    ensure!(
        !mount.destination.is_empty(),
        "invalid mount specification {text:?}: a destination (dst=) is needed"
    );
    Ok(mount)
}

/// Splits one CSV record (RFC 4180): fields in double quotes may hold commas, and quotes when doubled.
fn csv_fields(text: &str) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            loop {
                let end = quoted
                    .find('"')
                    .with_context(|| format!("unterminated quote in {text:?}"))?;
                field.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                let Some(more) = quoted.strip_prefix('"') else { break };
                field.push('"');
                quoted = more;
            }
            fields.push(field);
            rest = quoted;
            ensure!(
                rest.is_empty() || rest.starts_with(','),
                "text after a closing quote in {text:?}"
            );
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            ensure!(
                !rest[..end].contains('"'),
                "a quote inside an unquoted field in {text:?}"
            );
            fields.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

/// Reads labels, `key=value`; a bare `key` stands for `key=true`.
pub fn labels<S: AsRef<str>>(list: &[S]) -> BTreeMap<String, String> {
    list.iter()
        .map(|label| {
            let (key, value) = label.as_ref().split_once('=').unwrap_or((label.as_ref(), "true"));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// Reads annotations, `key=value`; a bare key is an error.
pub fn annotations(list: &[String]) -> Result<BTreeMap<String, String>> {
    list.iter()
        .map(|text| {
            let (key, value) = text
                .split_once('=')
                .with_context(|| format!("invalid key=value format annotation: {text}"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Reads `TYPE:PATH` of `--with-ns`.
pub fn namespace(text: &str) -> Result<Namespace> {
    let (kind, path) = text
        .split_once(':')
        .context("joining a Linux namespace using --with-ns requires the format 'nstype:path'")?;
    ensure!(
        ["pid", "network", "mount", "ipc", "uts", "user", "cgroup"].contains(&kind),
        "the Linux namespace type specified in --with-ns is not valid: {kind}"
    );
    Ok(Namespace {
        kind: kind.to_owned(),
        path: path.to_owned(),
    })
}

/// Reads `CONTAINER-ID:HOST-ID:SIZE`.
pub fn id_mapping(text: &str) -> Result<IdMapping> {
    let parts: Vec<&str> = text.split(':').collect();
    let [container, host, size] = parts[..] else {
        bail!("user namespace mappings require the format `container-id:host-id:size`, not {text:?}");
    };
    let number = |what: &str, text: &str| {
        text.parse::<u32>()
            .with_context(|| format!("invalid {what} {text:?} for user namespace remapping"))
    };
    Ok(IdMapping {
        container_id: number("container id", container)?,
        host_id: number("host id", host)?,
        size: number("size", size)?,
    })
}

/// Reads `HARD` or `SOFT:HARD` of `--rlimit-nofile`, as (soft, hard).
pub fn rlimit(text: &str) -> Result<(u64, u64)> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| {
        text.parse::<u64>()
            .with_context(|| format!("invalid limit {text:?}: expected NUMBER or SOFT:HARD"))
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    ensure!(
        soft <= hard,
        "invalid limit {text:?}: the soft limit is above the hard one"
    );
    Ok((soft, hard))
}

/// Lays `overrides` over `defaults`: `KEY=value` sets or replaces in place, a bare `KEY` unsets.
pub fn override_env(defaults: &[String], overrides: &[String]) -> Vec<String> {
    fn key(variable: &str) -> &str {
        variable.split_once('=').map_or(variable, |(key, _)| key)
    }
    let mut env = defaults.to_vec();
    for variable in overrides {
        let place = defaults.iter().rposition(|held| key(held) == key(variable));
        match (variable.contains('='), place) {
            (true, Some(at)) => env[at].clone_from(variable),
            (true, None) => env.push(variable.clone()),
            (false, Some(at)) => env[at].clear(),
            (false, None) => {}
        }
    }
    env.retain(|variable| !variable.is_empty());
    env
}
