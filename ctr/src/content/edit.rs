//! `content edit`: a blob through an editor, into a new blob.

use super::store;
use crate::client::Client;
use crate::digest;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::collections::HashMap;
use std::io::Write;
use std::process::Command;

/// `ctr content edit`.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Validate the result against a format (json, mediatype, etc.); not supported, in containerd neither
    #[arg(long, value_name = "FORMAT")]
    validate: Option<String>,
    /// Select editor (vim, emacs, etc.)
    #[arg(
        long,
        value_name = "COMMAND",
        env = "EDITOR",
        default_value = "",
        hide_default_value = true
    )]
    editor: String,
    /// Digest
    #[arg(value_name = "DIGEST")]
    digest: String,
}

/// Lets the user change a copy of a blob and prints the copy's digest.
pub async fn edit(client: &Client, args: &EditArgs) -> Result<()> {
    ensure!(args.validate.is_none(), "validating the edit result not supported");
    ensure!(!args.editor.is_empty(), "editor is required: --editor or $EDITOR");
    let bytes = store::read(client, digest::parse(&args.digest)?).await?;
    let directory = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, Into::into);
    let mut file = tempfile::Builder::new().prefix("edit-").tempfile_in(&directory);
    let file = file
        .as_mut()
        .map_err(|error| anyhow::anyhow!("cannot make a file in {}: {error}", directory.display()))?;
    file.write_all(&bytes).context("cannot write the file to edit")?;
    // The editor may come with arguments of its own, and it may replace the file instead of writing to it.
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("{} \"$0\"", args.editor))
        .arg(file.path())
        .status();
    let status = status.context("cannot run the editor")?;
    ensure!(status.success(), "the editor {:?} ended with {status}", args.editor);
    let edited = std::fs::read(file.path()).context("cannot read the edited file")?;
    let new = store::sha256(&edited);
    store::write_document(client, &format!("edit-{}", args.digest), &new, edited, HashMap::new()).await?;
    println!("{new}");
    Ok(())
}
