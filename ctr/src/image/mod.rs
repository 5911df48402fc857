//! `ctr images`: image records, and the content and snapshots behind them.
//!
//! [`model`] and [`platform`] are the documents, [`walk`] follows them in the content store, [`resolve`] ends at one
//! platform's image, [`unpack`] makes its snapshots. The commands: [`import`], [`export`], [`list`] (and `check`),
//! [`record`] (tag, label, delete, prune), [`remote`] (pull, push), [`convert`] (over [`recode`]), [`inspect`], [`mount`] and [`usage`].

pub mod convert;
pub mod export;
pub mod import;
pub mod inspect;
pub mod list;
pub mod model;
pub mod mount;
pub mod platform;
pub mod recode;
pub mod record;
pub mod reference;
pub mod remote;
pub mod resolve;
pub mod unpack;
pub mod usage;
pub mod walk;

pub use resolve::resolve;
pub use unpack::ensure_unpacked;

use crate::client::Client;
use anyhow::Result;
use clap::Subcommand;

/// Commands of `ctr images`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check existing images to ensure all content is available locally
    Check(list::CheckArgs),
    /// Export images
    Export(export::ExportArgs),
    /// Import images
    Import(import::ImportArgs),
    /// Inspect an image
    Inspect(inspect::InspectArgs),
    /// List images known to the daemon
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Mount an image to a target path
    Mount(mount::MountArgs),
    /// Unmount the image from the target
    Unmount(mount::UnmountArgs),
    /// Pull an image from a remote
    Pull(remote::PullArgs),
    /// Push an image to a remote
    Push(remote::PushArgs),
    /// Convert an image
    Convert(convert::ConvertArgs),
    /// Remove unused images
    Prune(record::PruneArgs),
    /// Remove one or more images by reference
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(record::DeleteArgs),
    /// Tag an image
    Tag(record::TagArgs),
    /// Set and clear labels for an image
    Label(record::LabelArgs),
    /// Display usage of snapshots for a given image ref
    Usage(usage::UsageArgs),
}

/// Runs a command.
pub async fn run(command: Command, client: &Client) -> Result<()> {
    match command {
        Command::Check(args) => list::check(client, args).await,
        Command::Export(args) => export::export(client, &args).await,
        Command::Import(args) => import::import(client, &args).await,
        Command::Inspect(args) => inspect::inspect(client, &args).await,
        Command::List(args) => list::list(client, args).await,
        Command::Mount(args) => mount::mount(client, &args).await,
        Command::Unmount(args) => mount::unmount(client, &args).await,
        Command::Pull(args) => remote::pull(client, &args).await,
        Command::Push(args) => remote::push(client, &args).await,
        Command::Convert(args) => convert::convert(client, &args).await,
        Command::Prune(args) => record::prune(client, &args).await,
        Command::Delete(args) => record::delete(client, &args).await,
        Command::Tag(args) => record::tag(client, &args).await,
        Command::Label(args) => record::label(client, &args).await,
        Command::Usage(args) => usage::usage(client, &args).await,
    }
}
