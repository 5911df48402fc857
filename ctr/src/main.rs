//! `ctr`, the client: containerd's names, flags, tables and exit codes, over containerd's API and nothing else.
//!
//! [`cli`] is the command line and hands each command to its folder: [`image`], [`content`], [`snapshot`],
//! [`container`], [`task`], … one a command group. [`client`] is the connection, [`table`] and [`human`] are how
//! things are printed.
#![cfg_attr(test, allow(clippy::unwrap_used))] // in a test, a panic is the failure that was asked for

mod cli;
mod client;
mod clock;
mod console;
mod container;
mod content;
mod digest;
mod event;
mod human;
mod image;
mod labels;
mod lease;
mod metrics;
mod mounting;
mod namespace;
mod plugin;
mod progress;
mod reflect;
mod registry;
mod run;
mod shim;
mod snapshot;
mod spec;
mod table;
mod task;
mod transfer;
mod version;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    end_quietly_without_reader();
    let cli = match cli::Cli::try_parse_from(cli::go_style(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            return refuse(&error);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ctr: cannot start the I/O runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(cli::run(cli));
    // A thread that reads standard input cannot be waited for.
    runtime.shutdown_background();
    match status {
        Ok(status) => ExitCode::from(status as u8),
        Err(error) => {
            eprintln!("ctr: {}", client::describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// Prints help or what is wrong with the command line. Statuses are those of containerd's client: 3 for a command that
/// there is not, 1 for everything else.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            println!("{}", error.render());
            ExitCode::SUCCESS
        }
        ErrorKind::MissingSubcommand => {
            println!("{}", cli::Cli::command().render_help());
            ExitCode::SUCCESS
        }
        kind => {
            if matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                drop(error.print());
                return ExitCode::SUCCESS;
            }
            eprintln!("ctr: {}", one_line(&error.render().to_string()));
            if kind == ErrorKind::InvalidSubcommand {
                return ExitCode::from(3);
            }
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with the command line, without the usage that comes with it.
fn one_line(rendered: &str) -> String {
    let lines = rendered.lines().map(str::trim);
    let lines = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let words: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let text = words.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// `ctr … | head`: when nobody reads any more, there is nothing to report.
fn end_quietly_without_reader() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let message = info.payload().downcast_ref::<String>();
        if message.is_some_and(|message| message.starts_with("failed printing to stdout")) {
            std::process::exit(1);
        }
        default(info);
    }));
}
