//! Between the shim's messages (rust-protobuf) and the contract's types.

use std::time::{Duration, SystemTime};

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::{any, timestamp::Timestamp};
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use orlop_plugin::contract::{Any, Exit, Mount, Process, ProcessInfo, ProcessState, Stdio};

/// To the shim.
pub fn to_any(value: Option<Any>) -> MessageField<any::Any> {
    value
        .map(|value| any::Any {
            type_url: value.type_url,
            value: value.value,
            ..any::Any::default()
        })
        .into()
}

/// From the shim.
pub fn from_any(value: MessageField<any::Any>) -> Option<Any> {
    value.into_option().map(|value| Any {
        type_url: value.type_url,
        value: value.value,
    })
}

/// A time; the zero time of Go, and none, are none.
pub fn time(timestamp: &MessageField<Timestamp>) -> Option<SystemTime> {
    let timestamp = timestamp.as_ref()?;
    let seconds = u64::try_from(timestamp.seconds).ok().filter(|seconds| *seconds > 0)?;
    let nanos = u32::try_from(timestamp.nanos).unwrap_or(0).min(999_999_999);
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// How the process `id` ended.
pub fn exit(id: &str, response: &api::DeleteResponse) -> Exit {
    Exit {
        id: id.to_owned(),
        pid: response.pid,
        status: response.exit_status,
        exited_at: time(&response.exited_at),
    }
}

/// Mounts, for the shim.
pub fn mounts(mounts: Vec<Mount>) -> Vec<api::Mount> {
    mounts
        .into_iter()
        .map(|mount| api::Mount {
            type_: mount.kind,
            source: mount.source,
            target: mount.target,
            options: mount.options,
            ..api::Mount::default()
        })
        .collect()
}

/// A process of the task `container_id`; `exec_id` empty for the first.
pub fn process(container_id: &str, exec_id: &str, state: api::StateResponse) -> Process {
    let id = if exec_id.is_empty() { container_id } else { exec_id };
    Process {
        container_id: container_id.to_owned(),
        id: id.to_owned(),
        pid: state.pid,
        state: process_state(state.status),
        exit_status: state.exit_status,
        exited_at: time(&state.exited_at),
        stdio: Stdio {
            stdin: state.stdin,
            stdout: state.stdout,
            stderr: state.stderr,
            terminal: state.terminal,
        },
    }
}

fn process_state(status: EnumOrUnknown<api::Status>) -> ProcessState {
    match status.enum_value() {
        Ok(api::Status::CREATED) => ProcessState::Created,
        Ok(api::Status::RUNNING) => ProcessState::Running,
        Ok(api::Status::STOPPED) => ProcessState::Stopped,
        Ok(api::Status::PAUSED) => ProcessState::Paused,
        Ok(api::Status::PAUSING) => ProcessState::Pausing,
        Ok(api::Status::UNKNOWN) | Err(_) => ProcessState::Unknown,
    }
}

/// A pid and what the shim says of it.
pub fn process_info(info: api::ProcessInfo) -> ProcessInfo {
    ProcessInfo {
        pid: info.pid,
        info: from_any(info.info),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_go_calls_zero_are_none() {
        assert_eq!(time(&MessageField::none()), None);
        let at = |seconds, nanos| {
            time(&MessageField::some(Timestamp {
                seconds,
                nanos,
                ..Timestamp::default()
            }))
        };
        assert_eq!(at(-62_135_596_800, 0), None, "0001-01-01, Go's zero time");
        assert_eq!(at(1, 5), SystemTime::UNIX_EPOCH.checked_add(Duration::new(1, 5)));
    }

    #[test]
    fn the_first_process_is_called_as_the_task() {
        let state = || api::StateResponse {
            pid: 7,
            status: api::Status::PAUSED.into(),
            ..api::StateResponse::default()
        };
        assert_eq!(process("box", "", state()).id, "box");
        let exec = process("box", "sh", state());
        assert_eq!(
            (exec.id.as_str(), exec.container_id.as_str(), exec.state),
            ("sh", "box", ProcessState::Paused)
        );
    }
}
