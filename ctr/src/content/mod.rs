//! `ctr content`: the blobs themselves. [`store`] talks to the daemon's content store, [`check`] is `content check`, [`edit`] is `content edit`,
//! [`prune`] is `content prune`, [`remote`] are `content fetch` and whatever else has to do with registries.

pub mod check;
pub mod edit;
pub mod prune;
pub mod remote;
pub mod store;

use crate::client::{Client, describe_status};
use crate::clock;
use crate::digest;
use crate::human::{age, decimal_size};
use crate::labels;
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use containerd_client::services::v1::{DeleteContentRequest, ListStatusesRequest};
use containerd_client::tonic::Code;
use std::collections::HashMap;
use std::io::{Read, Write, stdin, stdout};
use std::time::Duration;
use store::{CHUNK, Expected, Writer};

/// Commands of `ctr content`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Display active transfers
    Active(ActiveArgs),
    /// Check blobs against their digests
    Check(check::CheckArgs),
    /// Permanently delete one or more blobs
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(DigestsArgs),
    /// Edit a blob and return a new digest
    Edit(edit::EditArgs),
    /// Fetch all content for an image into the store
    Fetch(remote::FetchArgs),
    /// Retrieve objects from a remote
    FetchObject(remote::FetchObjectArgs),
    /// Retrieve blobs from a remote
    FetchBlob(remote::FetchBlobArgs),
    /// Get the data for an object
    Get(DigestsArgs),
    /// Accept content into the store
    Ingest(IngestArgs),
    /// List all blobs in the store
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Push an object to a remote
    PushObject(remote::PushObjectArgs),
    /// Add labels to content
    Label(LabelArgs),
    /// Prunes content from the content store
    #[command(subcommand)]
    Prune(prune::Command),
}

/// Blobs.
#[derive(Debug, Args)]
pub struct DigestsArgs {
    /// Digests
    #[arg(value_name = "DIGEST", required = true)]
    digests: Vec<String>,
}

/// `ctr content active`.
#[derive(Debug, Args)]
pub struct ActiveArgs {
    /// Total timeout for fetch
    #[arg(long, short = 't', value_name = "DURATION", env = "CONTAINERD_FETCH_TIMEOUT",
          value_parser = crate::human::parse_duration, default_value = "0s")]
    timeout: Duration,
    /// Path to content store root; the daemon knows its own
    #[arg(long, value_name = "DIR", default_value = "/tmp/content")]
    root: String,
    /// Regular expression for the names
    #[arg(value_name = "REGEXP")]
    pattern: Option<String>,
}

/// `ctr content ingest`.
#[derive(Debug, Args)]
pub struct IngestArgs {
    /// Validate against provided size
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    expected_size: i64,
    /// Verify content against expected digest
    #[arg(long, value_name = "DIGEST", default_value = "", hide_default_value = true)]
    expected_digest: String,
    /// Name of the ingest
    #[arg(value_name = "KEY")]
    key: String,
}

/// `ctr content list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print only the blob digest
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Filters; a blob that meets one of them is shown
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// `ctr content label`.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Digest
    #[arg(value_name = "DIGEST")]
    digest: String,
    /// Labels, KEY=VALUE; an empty value clears
    #[arg(value_name = "LABEL")]
    labels: Vec<String>,
}

impl Command {
    /// Whether it has nothing to do with a daemon.
    pub fn needs_no_daemon(&self) -> bool {
        matches!(self, Self::FetchObject(_) | Self::FetchBlob(_))
    }
}

/// Runs a command.
pub async fn run(command: Command, client: &Client) -> Result<()> {
    match command {
        Command::Active(args) => active(client, args).await,
        Command::Check(args) => check::run(client, args).await,
        Command::Delete(args) => delete(client, &args.digests).await,
        Command::Edit(args) => edit::edit(client, &args).await,
        Command::Fetch(args) => remote::fetch(client, &args).await,
        Command::FetchObject(args) => remote::fetch_object(&args).await,
        Command::FetchBlob(args) => remote::fetch_blob(&args).await,
        Command::PushObject(args) => remote::push_object(client, &args).await,
        Command::Get(args) => {
            for wanted in &args.digests {
                print_blob(client, digest::parse(wanted)?).await?;
            }
            Ok(())
        }
        Command::Ingest(args) => ingest(client, &args).await,
        Command::List(args) => list(client, args).await,
        Command::Label(args) => {
            let digest = digest::parse(&args.digest)?;
            let (labels, _) = labels::update(&args.labels);
            let info = if labels.is_empty() {
                store::info(client, digest).await?
            } else {
                store::set_labels(client, digest, labels).await?
            };
            println!("{}", labels::list(&info.labels));
            Ok(())
        }
        Command::Prune(command) => prune::run(client, &command).await,
    }
}

/// Writes a blob to standard output.
pub async fn print_blob(client: &Client, digest: &str) -> Result<()> {
    let mut pieces = store::pieces(client, digest, 0, 0).await?;
    let mut out = stdout().lock();
    while let Some(piece) = pieces.message().await? {
        out.write_all(&piece.data).context("cannot write to standard output")?;
    }
    out.flush().context("cannot write to standard output")
}

async fn active(client: &Client, args: ActiveArgs) -> Result<()> {
    let filters = args.pattern.into_iter().filter(|pattern| !pattern.is_empty()).collect();
    let request = client.request(ListStatusesRequest { filters });
    let statuses = client.content().list_statuses(request).await?.into_inner().statuses;
    let mut table = Table::tabbed(&["REF", "SIZE", "AGE", ""]);
    for status in &statuses {
        let started = age(clock::since(status.started_at.as_ref()));
        table.row([&status.r#ref, &decimal_size(status.offset), &started, ""]);
    }
    table.print();
    Ok(())
}

async fn delete(client: &Client, digests: &[String]) -> Result<()> {
    let mut first = None;
    for wanted in digests {
        if let Err(error) = digest::parse(wanted) {
            eprintln!("ctr: could not delete {wanted}: {error:#}");
            first.get_or_insert(error);
            continue;
        }
        let request = DeleteContentRequest { digest: wanted.clone() };
        match client.content().delete(client.request(request)).await {
            Ok(_) => println!("{wanted}"),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => {
                eprintln!("ctr: could not delete {wanted}: {}", describe_status(&status));
                first.get_or_insert(status.into());
            }
        }
    }
    first.map_or(Ok(()), Err)
}

async fn ingest(client: &Client, args: &IngestArgs) -> Result<()> {
    if !args.expected_digest.is_empty() {
        digest::parse(&args.expected_digest)?;
    }
    ensure!(!args.key.is_empty(), "must specify a transaction reference");
    let expected = Expected {
        size: args.expected_size,
        digest: args.expected_digest.clone(),
    };
    let Some(mut writer) = Writer::open(client, &args.key, expected).await? else {
        return Ok(());
    };
    let mut input = stdin().lock();
    loop {
        let mut chunk = Vec::new();
        input
            .by_ref()
            .take(CHUNK as u64)
            .read_to_end(&mut chunk)
            .context("cannot read standard input")?;
        if chunk.is_empty() {
            break;
        }
        writer.write(chunk).await?;
    }
    writer.commit(HashMap::new()).await?;
    Ok(())
}

async fn list(client: &Client, args: ListArgs) -> Result<()> {
    let blobs = store::list(client, args.filters).await?;
    if args.quiet {
        for blob in &blobs {
            println!("{}", blob.digest);
        }
        return Ok(());
    }
    let mut table = Table::tabbed(&["DIGEST", "SIZE", "AGE", "LABELS"]);
    for blob in &blobs {
        let created = age(clock::since(blob.created_at.as_ref()));
        table.row([
            &blob.digest,
            &decimal_size(blob.size),
            &created,
            &labels::column(&blob.labels),
        ]);
    }
    table.print();
    Ok(())
}
