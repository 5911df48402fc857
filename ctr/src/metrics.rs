//! `tasks metrics`: one reading of a task's control group, as a table or JSON.
//!
//! The daemon answers the shim's protobuf unread: cgroup v1 or v2 metrics, told apart by the type URL.

use crate::client::Client;
use crate::reflect;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use containerd_client::services::v1::MetricsRequest;
use containerd_shim_protos::cgroups::metrics::Metrics as V1;
use containerd_shim_protos::cgroups_v2::metrics::Metrics as V2;
use containerd_shim_protos::protobuf::Message;

/// `ctr tasks metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Container id
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// Forms of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Some figures, one a line.
    Table,
    /// Everything.
    Json,
}

/// A reading.
enum Metrics {
    V1(Box<V1>),
    V2(Box<V2>),
}

/// Prints a task's metrics.
pub async fn metrics(client: &Client, args: &MetricsArgs) -> Result<()> {
    crate::task::load(client, &args.id).await?;
    crate::task::state(client, &args.id, "").await?;
    let request = MetricsRequest {
        filters: vec![format!("id=={}", args.id)],
    };
    let answer = client.tasks().metrics(client.request(request)).await?.into_inner();
    let Some(metric) = answer.metrics.into_iter().next() else {
        bail!("no metrics received for task {}", args.id);
    };
    let data = metric
        .data
        .with_context(|| format!("the metrics of task {} are empty", args.id))?;
    let metrics = parse(&data)?;
    match args.format {
        Format::Json => {
            let json = match &metrics {
                Metrics::V1(metrics) => reflect::json(&**metrics),
                Metrics::V2(metrics) => reflect::json(&**metrics),
            };
            // Two spaces a level here, where everything else in containerd's client has four.
            println!("{}", serde_json::to_string_pretty(&json).context("cannot write JSON")?);
            Ok(())
        }
        Format::Table => {
            let timestamp = crate::clock::go_default(&metric.timestamp.unwrap_or_default());
            let mut head = Table::new(&["ID", "TIMESTAMP", ""]);
            head.row([metric.id.as_str(), &timestamp, ""]);
            head.print();
            println!();
            let mut table = Table::new(&["METRIC", "VALUE", ""]);
            for (name, value) in rows(&metrics) {
                table.row([name, value.as_str(), ""]);
            }
            table.print();
            Ok(())
        }
    }
}

fn parse(data: &prost_types::Any) -> Result<Metrics> {
    let what = || format!("cannot read metrics of type {}", data.type_url);
    if data.type_url.ends_with("io.containerd.cgroups.v1.Metrics") {
        Ok(Metrics::V1(Box::new(
            V1::parse_from_bytes(&data.value).with_context(what)?,
        )))
    } else if data.type_url.ends_with("io.containerd.cgroups.v2.Metrics") {
        Ok(Metrics::V2(Box::new(
            V2::parse_from_bytes(&data.value).with_context(what)?,
        )))
    } else {
        bail!(
            "cannot convert metric data to cgroups.Metrics: {} is not known to this client",
            data.type_url
        )
    }
}

/// The lines of the table: those that containerd's client shows, for the parts that the reading has.
fn rows(metrics: &Metrics) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let mut push = |name, value: u64| rows.push((name, value.to_string()));
    match metrics {
        Metrics::V1(m) => {
            if let Some(memory) = m.memory.as_ref() {
                push("memory.usage_in_bytes", memory.usage.usage);
                push("memory.limit_in_bytes", memory.usage.limit);
                push("memory.stat.cache", memory.total_cache);
            }
            if let Some(cpu) = m.cpu.as_ref() {
                push("cpuacct.usage", cpu.usage.total);
                let each: Vec<String> = cpu.usage.per_cpu.iter().map(u64::to_string).collect();
                rows.push(("cpuacct.usage_percpu", format!("[{}]", each.join(" "))));
            }
            if let Some(pids) = m.pids.as_ref() {
                rows.push(("pids.current", pids.current.to_string()));
                rows.push(("pids.limit", pids.limit.to_string()));
            }
        }
        Metrics::V2(m) => {
            if let Some(pids) = m.pids.as_ref() {
                push("pids.current", pids.current);
                push("pids.limit", pids.limit);
            }
            if let Some(cpu) = m.cpu.as_ref() {
                push("cpu.usage_usec", cpu.usage_usec);
                push("cpu.user_usec", cpu.user_usec);
                push("cpu.system_usec", cpu.system_usec);
                push("cpu.nr_periods", cpu.nr_periods);
                push("cpu.nr_throttled", cpu.nr_throttled);
                push("cpu.throttled_usec", cpu.throttled_usec);
            }
            if let Some(memory) = m.memory.as_ref() {
                push("memory.usage", memory.usage);
                push("memory.usage_limit", memory.usage_limit);
                push("memory.swap_usage", memory.swap_usage);
                push("memory.swap_limit", memory.swap_limit);
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::cgroups_v2::metrics::{MemoryStat, PidsStat};

    fn reading() -> V2 {
        let mut metrics = V2::new();
        metrics.pids = Some(PidsStat {
            current: 3,
            ..PidsStat::default()
        })
        .into();
        metrics.memory = Some(MemoryStat {
            usage: 4096,
            usage_limit: u64::MAX,
            ..MemoryStat::default()
        })
        .into();
        metrics
    }

    #[test]
    fn a_reading_is_told_apart_by_its_type() {
        let any = |url: &str| prost_types::Any {
            type_url: url.to_owned(),
            value: reading().write_to_bytes().unwrap(),
        };
        let parsed = parse(&any("io.containerd.cgroups.v2.Metrics")).unwrap();
        let rows = rows(&parsed);
        assert_eq!(rows[0], ("pids.current", "3".to_owned()));
        assert!(rows.contains(&("memory.usage_limit", u64::MAX.to_string())));
        assert!(
            !rows.iter().any(|(name, _)| name.starts_with("cpu.")),
            "no cpu part, no cpu lines"
        );
        assert!(parse(&any("acme.Metrics")).is_err());
    }

    #[test]
    fn json_has_field_names_and_leaves_zeros_out() {
        let json = reflect::json(&reading());
        assert_eq!(
            serde_json::to_value(json).unwrap(),
            serde_json::json!({"pids": {"current": 3}, "memory": {"usage": 4096, "usage_limit": u64::MAX}})
        );
    }
}
