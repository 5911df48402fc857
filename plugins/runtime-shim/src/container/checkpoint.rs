//! Checkpoints, as CRIU makes them for the runtime: taking one, and starting a container from one.

use containerd_shim_protos::api::CheckpointTaskRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::oci::CheckpointOptions;

use super::Container;
use crate::error::{Error, Result};
use crate::process::Phase;
use crate::reaper::Reaper;
use crate::runtime::flag;

impl Container {
    pub async fn checkpoint(&self, reaper: &Reaper, request: &CheckpointTaskRequest) -> Result<()> {
        self.init.require("checkpoint", &[Phase::Running, Phase::Paused])?;
        let options = match request.options.as_ref() {
            Some(any) => CheckpointOptions::parse_from_bytes(&any.value)
                .map_err(|error| Error::invalid(format!("the checkpoint options: {error}")))?,
            None => CheckpointOptions::default(),
        };
        let mut command = self.runtime.command("checkpoint");
        let own_work = self.bundle.join("work/criu-work");
        let work = match options.work_path.as_str() {
            "" => own_work.clone(),
            path => path.into(),
        };
        command
            .arg("--image-path")
            .arg(&request.path)
            .arg("--work-path")
            .arg(&work);
        flag(&mut command, !options.exit, "--leave-running");
        flag(&mut command, options.open_tcp, "--tcp-established");
        flag(&mut command, options.external_unix_sockets, "--ext-unix-sk");
        flag(&mut command, options.terminal, "--shell-job");
        flag(&mut command, options.file_locks, "--file-locks");
        for namespace in &options.empty_namespaces {
            command.args(["--empty-ns", namespace]);
        }
        command.arg(&self.id);
        let done = self.runtime.run(reaper, command).await.map_err(|error| {
            let log = self.bundle.join("criu-dump.log");
            // Without CRIU's own log the runtime's first line is all there is.
            let _ = std::fs::copy(work.join("dump.log"), &log);
            let first = error.message.lines().next().unwrap_or_default();
            Error::unknown(format!("{first} path= {}", log.display()))
        });
        let _ = std::fs::remove_dir_all(own_work);
        done
    }

    pub(super) async fn restore(&self, reaper: &Reaper, images: &str, parent: &str) -> Result<()> {
        let mut command = self.runtime.command("restore");
        command
            .arg("--bundle")
            .arg(&self.bundle)
            .args(["--detach", "--no-subreaper", "--image-path", images]);
        let work = match self.options.criu_work_path.as_str() {
            "" => self.bundle.join("work"),
            path => path.into(),
        };
        command.arg("--work-path").arg(&work);
        if !parent.is_empty() {
            command.args(["--parent-path", parent]);
        }
        flag(&mut command, self.options.no_pivot_root, "--no-pivot");
        self.launch(
            reaper,
            &self.init,
            command,
            &self.pid_file(),
            "OCI runtime restore failed",
        )
        .await?;
        self.find_cgroup();
        Ok(())
    }
}
