//! `-info`: the name and version of this shim, and what the runtime below says of itself.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::error::{Error, Result};
use crate::options::Options;

/// JSON, as the OCI runtime specification has it.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Reads the options on standard input, and prints a `RuntimeInfo`.
pub fn print() -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin()
        .take(1 << 20)
        .read_to_end(&mut input)
        .map_err(|error| Error::io("failed to read stdin", error))?;
    let any = match input.as_slice() {
        [] => None,
        bytes => Some(
            Any::parse_from_bytes(bytes)
                .map_err(|error| Error::invalid(format!("failed to read runtime options: {error}")))?,
        ),
    };
    let options = Options::from_any(any.as_ref())?;
    let program = if options.binary_name.is_empty() {
        "runc"
    } else {
        &options.binary_name
    };
    let output = Command::new(program).arg("features").stdin(Stdio::null()).output();
    let output = output.map_err(|error| Error::io(format!("failed to look up the path of {program:?}"), error))?;
    // Runtimes without `features` have said something else.
    let features = serde_json::from_slice::<serde::de::IgnoredAny>(&output.stdout).is_ok() && output.status.success();
    let info = RuntimeInfo {
        name: "io.containerd.runc.v2".to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        })
        .into(),
        options: any.into(),
        features: features
            .then(|| Any {
                type_url: FEATURES.to_owned(),
                value: output.stdout,
                ..Any::default()
            })
            .into(),
        ..RuntimeInfo::default()
    };
    let bytes = info.write_to_bytes().map_err(|error| Error::io("answer", error))?;
    std::io::stdout()
        .write_all(&bytes)
        .map_err(|error| Error::io("answer", error))
}
