//! The runtime with a real shim and a real runc, as root.

mod node;
mod restart;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use containerd_client::events::TaskExit;
use node::{Node, PATIENCE, process};
use orlop_plugin::contract::{Any, Code, ExecProcess, Exit, ProcessState, Stdio};
use prost::Message;
use serde_json::json;

const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

fn exec(id: &str, exec_id: &str, stdio: Stdio, args: &[&str]) -> ExecProcess {
    ExecProcess {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        stdio,
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process(args).to_string().into_bytes(),
        }),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: orlop_plugin::Result<T>, code: Code) -> String {
    let error = result.expect_err("refused");
    assert_eq!(error.code, code, "{error}");
    error.message
}

async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

#[tokio::test]
async fn a_task_lives_from_create_to_delete() {
    let node = Node::start().await;
    let (tasks, ctx) = (node.tasks(), &node.ctx);
    node.container("box", "echo hello; exit 7").await;
    let (stdio, output) = node.output("out");
    let mut request = node.request("box");
    request.stdio = stdio;

    let pid = tasks.create(ctx, request.clone()).await.expect("created");
    assert_eq!(node.state("box").await, Ok(ProcessState::Created));
    refused(tasks.create(ctx, request).await, Code::AlreadyExists);
    let early = tokio::spawn({
        let (tasks, ctx) = (tasks.clone(), ctx.clone());
        async move { tasks.wait(&ctx, "box", "").await }
    });
    assert_eq!(tasks.start(ctx, "box", "").await, Ok(pid));
    let exit = patiently(early).await.expect("joined").expect("waited");
    assert_eq!((exit.status, exit.pid, exit.id.as_str()), (7, pid, "box"));
    assert!(exit.exited_at.is_some());
    assert_eq!(patiently(output).await.expect("read"), "hello\n");
    let late = patiently(tasks.wait(ctx, "box", ""))
        .await
        .expect("an exit that was before is not missed");
    assert_eq!(late, exit);
    assert_eq!(node.state("box").await, Ok(ProcessState::Stopped));
    let listed = tasks.list(ctx).await.expect("listed");
    assert_eq!(
        listed.iter().map(|process| process.id.as_str()).collect::<Vec<_>>(),
        ["box"]
    );

    let deleted = tasks.delete(ctx, "box", "").await.expect("deleted");
    assert_eq!((deleted.status, deleted.pid), (7, pid));
    assert_eq!(node.state("box").await, Err(Code::NotFound));
    refused(tasks.delete(ctx, "box", "").await, Code::NotFound);
    assert!(!node.bundle("box").exists() && !node.work("box").exists());
    let topics = node.event("/tasks/delete").await;
    assert_eq!(
        topics,
        ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    );
    node.no_shims().await;
}

#[tokio::test]
async fn a_name_can_be_used_again_at_once() {
    let node = Node::start().await;
    node.container("box", "exit 0").await;
    for _ in 0..5 {
        node.run("box").await;
        patiently(node.tasks().wait(&node.ctx, "box", ""))
            .await
            .expect("waited");
        node.tasks().delete(&node.ctx, "box", "").await.expect("deleted");
    }
    node.no_shims().await;
}

#[tokio::test]
async fn a_running_task_takes_commands() {
    let node = Node::start().await;
    let (tasks, ctx) = (node.tasks(), &node.ctx);
    node.container("box", "sleep 1000").await;
    let pid = node.run("box").await;
    refused(tasks.delete(ctx, "box", "").await, Code::FailedPrecondition);

    let (stdio, output) = node.output("exec-out");
    tasks
        .exec(ctx, exec("box", "greet", stdio, &["/bin/sh", "-c", "echo hi; exit 3"]))
        .await
        .expect("added");
    refused(
        tasks
            .exec(ctx, exec("box", "greet", Stdio::default(), &["/bin/sh"]))
            .await,
        Code::AlreadyExists,
    );
    refused(
        tasks
            .exec(ctx, exec("box", "../x", Stdio::default(), &["/bin/sh"]))
            .await,
        Code::InvalidArgument,
    );
    let exec_pid = tasks.start(ctx, "box", "greet").await.expect("started");
    assert_ne!(exec_pid, pid);
    let exit = patiently(tasks.wait(ctx, "box", "greet")).await.expect("waited");
    assert_eq!((exit.status, exit.id.as_str()), (3, "greet"));
    assert_eq!(patiently(output).await.expect("read"), "hi\n");
    let deleted = tasks.delete(ctx, "box", "greet").await.expect("deleted");
    assert_eq!((deleted.status, deleted.pid), (3, exec_pid));
    refused(tasks.get(ctx, "box", "greet").await, Code::NotFound);
    refused(tasks.kill(ctx, "box", "nobody", SIGTERM, false).await, Code::NotFound);

    tasks
        .exec(ctx, exec("box", "long", Stdio::default(), &["/bin/sleep", "1000"]))
        .await
        .expect("added");
    tasks.start(ctx, "box", "long").await.expect("started");
    refused(tasks.delete(ctx, "box", "long").await, Code::FailedPrecondition);
    assert_eq!(tasks.pids(ctx, "box").await.expect("listed").len(), 2);
    tasks.kill(ctx, "box", "long", SIGKILL, false).await.expect("killed");
    assert_eq!(
        patiently(tasks.wait(ctx, "box", "long")).await.expect("waited").status,
        137
    );

    let impatient = ctx.clone().with_deadline(Instant::now() + Duration::from_millis(20));
    refused(tasks.wait(&impatient, "box", "").await, Code::DeadlineExceeded);
    if std::process::Command::new("criu").arg("--version").output().is_err() {
        // Without CRIU runc says so; the directory that was made for the checkpoint is gone again.
        let error = tasks.checkpoint(ctx, "box", "", None).await.expect_err("no CRIU");
        assert!(error.message.contains("criu"), "{error}");
        let left = std::fs::read_dir(node.work("box")).expect("listed").flatten();
        assert!(
            left.into_iter()
                .all(|entry| !entry.file_name().to_string_lossy().starts_with("checkpoint-"))
        );
    }

    tasks.pause(ctx, "box").await.expect("paused");
    assert_eq!(node.state("box").await, Ok(ProcessState::Paused));
    tasks.resume(ctx, "box").await.expect("resumed");
    assert_eq!(node.state("box").await, Ok(ProcessState::Running));
    let metrics = tasks.metrics(ctx, &["id==box".to_owned()]).await.expect("measured");
    assert_eq!(metrics.len(), 1);
    assert!(
        metrics[0]
            .data
            .as_ref()
            .is_some_and(|data| data.type_url.contains("cgroups")),
        "{metrics:?}"
    );
    assert!(
        tasks
            .metrics(ctx, &["id==other".to_owned()])
            .await
            .expect("measured")
            .is_empty()
    );
    let resources = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: json!({"pids": {"limit": 50}}).to_string().into_bytes(),
    };
    tasks
        .update(ctx, "box", Some(resources), BTreeMap::default())
        .await
        .expect("updated");

    tasks.kill(ctx, "box", "", SIGKILL, true).await.expect("killed");
    let exit = patiently(tasks.wait(ctx, "box", "")).await.expect("waited");
    assert_eq!((exit.status, exit.pid), (137, pid));
    tasks.delete(ctx, "box", "").await.expect("deleted");
    node.no_shims().await;
}

#[tokio::test]
async fn what_is_written_to_stdin_reaches_the_process() {
    let node = Node::start().await;
    let (tasks, ctx) = (node.tasks(), &node.ctx);
    node.container("box", "cat").await;
    let (mut stdio, output) = node.output("out");
    stdio.stdin = node.fifo("in");
    let mut request = node.request("box");
    request.stdio = stdio.clone();
    tasks.create(ctx, request).await.expect("created");
    tasks.start(ctx, "box", "").await.expect("started");
    patiently(tokio::fs::write(&stdio.stdin, "ping\n"))
        .await
        .expect("written");
    tasks.close_io(ctx, "box", "", true).await.expect("closed");
    assert_eq!(patiently(tasks.wait(ctx, "box", "")).await.expect("waited").status, 0);
    assert_eq!(patiently(output).await.expect("read"), "ping\n");
    tasks.delete(ctx, "box", "").await.expect("deleted");
}

#[tokio::test]
async fn a_terminal_can_be_resized() {
    let node = Node::start().await;
    let (tasks, ctx) = (node.tasks(), &node.ctx);
    let mut sh = process(&["/bin/sh", "-c", "read go; stty size"]);
    sh["terminal"] = json!(true);
    node.container_of("box", &sh, &json!({})).await;
    let (mut stdio, output) = node.output("out");
    (stdio.stdin, stdio.stderr, stdio.terminal) = (node.fifo("in"), String::new(), true);
    let mut request = node.request("box");
    request.stdio = stdio.clone();
    tasks.create(ctx, request).await.expect("created");
    tasks.start(ctx, "box", "").await.expect("started");
    tasks.resize_pty(ctx, "box", "", 133, 42).await.expect("resized");
    refused(tasks.resize_pty(ctx, "other", "", 80, 25).await, Code::NotFound);
    patiently(tokio::fs::write(&stdio.stdin, "go\n"))
        .await
        .expect("written");
    assert_eq!(patiently(tasks.wait(ctx, "box", "")).await.expect("waited").status, 0);
    let output = patiently(output).await.expect("read");
    assert!(output.contains("42 133"), "{output:?}");
    tasks.delete(ctx, "box", "").await.expect("deleted");
}

#[tokio::test]
async fn a_shim_that_dies_is_noticed_and_cleaned_up_after() {
    let node = Node::start().await;
    let (tasks, ctx) = (node.tasks(), &node.ctx);
    node.container("box", "exec sleep 1000").await;
    let pid = node.run("box").await;
    let waiting = tokio::spawn({
        let (tasks, ctx) = (tasks.clone(), ctx.clone());
        async move { tasks.wait(&ctx, "box", "").await }
    });
    for shim in node.shims() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).expect("killed");
    }
    let exit: Exit = patiently(waiting).await.expect("joined").expect("who waits is told");
    assert_eq!((exit.status, exit.pid), (137, pid));
    node.event("/tasks/delete").await;
    let ended = node
        .events()
        .into_iter()
        .find(|(topic, _)| topic == "/tasks/exit")
        .expect("published")
        .1;
    assert_eq!(ended.type_url, "containerd.events.TaskExit");
    let ended = TaskExit::decode(&ended.value[..]).expect("decoded");
    assert_eq!(
        (ended.container_id.as_str(), ended.pid, ended.exit_status),
        ("box", pid, 137)
    );
    // The name is free: the next one is new, and works.
    patiently(async {
        while node.state("box").await != Err(Code::NotFound) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(!node.bundle("box").exists());
    let runc = std::path::Path::new("/run/containerd/runc")
        .join(&node.namespace)
        .join("box");
    assert!(!runc.exists(), "runc's container is gone too");
    node.run("box").await;
    tasks.kill(ctx, "box", "", SIGKILL, false).await.expect("killed");
    patiently(tasks.wait(ctx, "box", "")).await.expect("waited");
    tasks.delete(ctx, "box", "").await.expect("deleted");
}

#[tokio::test]
async fn containers_of_a_pod_share_a_shim() {
    let node = Node::start().await;
    let (tasks, ctx) = (node.tasks(), &node.ctx);
    for id in ["pause", "app"] {
        let pod = json!({"io.kubernetes.cri.sandbox-id": "pause"});
        node.container_with(id, &["/bin/sleep", "1000"], pod).await;
        node.run(id).await;
    }
    assert_eq!(node.shims().len(), 1);
    for (id, left) in [("app", 1), ("pause", 0)] {
        tasks.kill(ctx, id, "", SIGKILL, false).await.expect("killed");
        patiently(tasks.wait(ctx, id, "")).await.expect("waited");
        tasks.delete(ctx, id, "").await.expect("deleted");
        assert_eq!(tasks.list(ctx).await.expect("listed").len(), left);
    }
    node.no_shims().await;
}

#[tokio::test]
async fn a_container_of_a_sandbox_uses_its_shim() {
    let node = Node::start().await;
    let (tasks, ctx) = (node.tasks(), &node.ctx);
    node.container("pod", "exec sleep 1000").await;
    node.run("pod").await;
    node.container("app", "exit 4").await;
    node.record_with("app", |container| container.sandbox = "pod".into())
        .await;
    node.run("app").await;
    assert_eq!(patiently(tasks.wait(ctx, "app", "")).await.expect("waited").status, 4);
    assert_eq!(node.shims().len(), 1);
    tasks.delete(ctx, "app", "").await.expect("deleted");
    assert_eq!(node.state("pod").await, Ok(ProcessState::Running));
    node.record_with("app", |container| container.sandbox = "nonesuch".into())
        .await;
    let message = refused(tasks.create(ctx, node.request("app")).await, Code::NotFound);
    assert!(message.contains("nonesuch"), "{message}");
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing() {
    let node = Node::start().await;
    let (tasks, ctx) = (node.tasks(), &node.ctx);
    refused(tasks.create(ctx, node.request("unrecorded")).await, Code::NotFound);

    node.container_with("box", &["/bin/nonesuch"], json!({})).await;
    let error = tasks
        .create(ctx, node.request("box"))
        .await
        .expect_err("no such program");
    assert!(
        error.message.contains("nonesuch"),
        "runc's own words reach the caller: {error}"
    );
    assert!(!node.bundle("box").exists() && !node.work("box").exists());
    assert_eq!(node.state("box").await, Err(Code::NotFound));
    node.no_shims().await;

    node.record_with("box", |container| {
        container.runtime.name = "io.containerd.nonesuch.v9".into();
    })
    .await;
    let message = refused(tasks.create(ctx, node.request("box")).await, Code::FailedPrecondition);
    assert!(message.contains("containerd-shim-nonesuch-v9"), "{message}");
    let mut request = node.request("box");
    request.runtime_path = "/bin/false".into();
    let message = refused(tasks.create(ctx, request).await, Code::Unknown);
    assert!(message.contains("/bin/false"), "{message}");
    assert!(!node.bundle("box").exists() && !node.work("box").exists());
    assert!(node.topics().is_empty(), "{:?}", node.topics());
}

#[tokio::test]
async fn a_caller_who_gives_up_leaves_nothing() {
    let node = Node::start().await;
    node.container("box", "exec sleep 1000").await;
    for millis in [0, 5, 20, 60, 90] {
        let ctx = node.ctx.clone();
        let create = node.tasks();
        let request = node.request("box");
        let created = tokio::time::timeout(Duration::from_millis(millis), create.create(&ctx, request)).await;
        match created {
            Err(_gave_up) => {}
            Ok(Ok(_)) => {
                node.tasks().delete(&ctx, "box", "").await.expect("deleted");
            }
            // The one before is still being cleaned up after.
            Ok(Err(error)) => assert_eq!(error.code, Code::AlreadyExists, "{error}"),
        }
        patiently(async {
            while node.bundle("box").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        node.no_shims().await;
    }
    patiently(async {
        while node
            .tasks()
            .create(&node.ctx, node.request("box"))
            .await
            .is_err_and(|error| error.is_already_exists())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(node.state("box").await, Ok(ProcessState::Created));
    node.tasks()
        .delete(&node.ctx, "box", "")
        .await
        .expect("a created task can be deleted");
    node.no_shims().await;
    assert!(node.path().exists());
}
