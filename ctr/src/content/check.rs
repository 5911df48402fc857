//! `ctr content check`: reads blobs and compares them with their digests. containerd has no such command; it works with its daemon too.

use super::store;
use crate::client::{Client, describe_status};
use crate::digest;
use crate::human::decimal_size;
use crate::table::Table;
use anyhow::{Result, bail};
use clap::Args;
use containerd_client::tonic::Code;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// Blobs read at a time.
const AT_A_TIME: usize = 4;

/// `ctr content check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print only the digests of damaged blobs
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Digests; without any, every blob of the namespace is checked
    #[arg(value_name = "DIGEST")]
    digests: Vec<String>,
}

/// Runs the command. Damage is an error: its digests are printed, and the exit code is 1.
pub async fn run(client: &Client, args: CheckArgs) -> Result<()> {
    for digest in &args.digests {
        digest::parse(digest)?;
    }
    // What is listed may be collected before its turn; what the user names is missed.
    let listed = args.digests.is_empty();
    let digests = if listed {
        let blobs = store::list(client, Vec::new()).await?;
        blobs.into_iter().map(|blob| blob.digest).collect()
    } else {
        args.digests
    };
    let checked: Vec<(String, Outcome)> = stream::iter(digests)
        .map(|digest| async move {
            let outcome = check(client, &digest).await;
            let gone = listed && outcome.damage.is_some() && is_gone(client, &digest).await;
            (!gone).then_some((digest, outcome))
        })
        .buffered(AT_A_TIME)
        .filter_map(std::future::ready)
        .collect()
        .await;
    let count = checked.len();
    let damaged = checked.iter().filter(|(_, outcome)| outcome.damage.is_some()).count();
    if args.quiet {
        for (digest, _) in checked.iter().filter(|(_, outcome)| outcome.damage.is_some()) {
            println!("{digest}");
        }
    } else {
        let mut table = Table::tabbed(&["DIGEST", "SIZE", "STATUS", ""]);
        for (digest, outcome) in &checked {
            let status = outcome.damage.as_deref().unwrap_or("ok");
            table.row([digest, &decimal_size(outcome.size), status, ""]);
        }
        table.print();
    }
    if damaged > 0 {
        bail!("{damaged} of {count} blobs are damaged: remove them with `ctr content rm` and fetch their images again");
    }
    Ok(())
}

/// What became of a blob.
struct Outcome {
    /// Bytes by the store's record; those that were read, where it has none.
    size: i64,
    /// What is wrong with it.
    damage: Option<String>,
}

async fn is_gone(client: &Client, digest: &str) -> bool {
    matches!(store::info(client, digest).await, Err(status) if status.code() == Code::NotFound)
}

async fn check(client: &Client, digest: &str) -> Outcome {
    let size = match store::info(client, digest).await {
        Ok(info) => info.size,
        Err(status) => {
            return Outcome {
                size: 0,
                damage: Some(describe_status(&status)),
            };
        }
    };
    let damage = match hash(client, digest).await {
        Err(reason) => Some(reason),
        Ok((read, _)) if read != size => Some(format!("damaged: {read} of {size} bytes are there")),
        Ok((_, actual)) if actual != digest => Some(format!("damaged: its content has the digest {actual}")),
        Ok(_) => None,
    };
    Outcome { size, damage }
}

/// How many bytes a blob has, and their digest by the same algorithm.
async fn hash(client: &Client, digest: &str) -> Result<(i64, String), String> {
    let (algorithm, _) = digest.split_once(':').unwrap_or(("sha256", ""));
    match algorithm {
        "sha384" => hash_with::<Sha384>(client, digest, algorithm).await,
        "sha512" => hash_with::<Sha512>(client, digest, algorithm).await,
        _ => hash_with::<Sha256>(client, digest, algorithm).await,
    }
}

async fn hash_with<D: Digest>(client: &Client, digest: &str, algorithm: &str) -> Result<(i64, String), String> {
    let unreadable = |status| format!("unreadable: {}", describe_status(&status));
    let mut pieces = store::pieces(client, digest, 0, 0).await.map_err(unreadable)?;
    let (mut hasher, mut read) = (D::new(), 0);
    while let Some(piece) = pieces.message().await.map_err(unreadable)? {
        hasher.update(&piece.data);
        read += piece.data.len() as i64;
    }
    Ok((read, format!("{algorithm}:{}", hex::encode(hasher.finalize()))))
}
