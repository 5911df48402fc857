//! What becomes of tasks when the daemon ends and another one starts.

use super::*;

#[tokio::test]
async fn tasks_survive_a_restart_of_the_daemon() {
    let mut node = Node::start().await;
    for id in ["stays", "ends", "dies"] {
        node.container(id, "exec sleep 1000").await;
    }
    let pid = node.run("stays").await;
    let ends = node.run("ends").await;
    node.run("dies").await;
    let shims_before = node.shims();
    node.halt().await;
    // While no daemon runs, one container ends and one loses its shim.
    let kill = |pid: i32| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    kill(ends as i32).expect("killed");
    kill(node.shim_of("dies").as_raw()).expect("killed");
    assert_eq!(shims_before.len(), 3, "shims do not end with the daemon");
    node.boot().await;

    let (tasks, ctx) = (node.tasks(), &node.ctx);
    let process = tasks.get(ctx, "stays", "").await.expect("still there");
    assert_eq!((process.pid, process.state), (pid, ProcessState::Running));
    let exit = patiently(tasks.wait(ctx, "ends", "")).await.expect("waited");
    assert_eq!((exit.status, exit.pid), (137, ends));
    assert_eq!(node.state("dies").await, Err(Code::NotFound));
    assert!(!node.bundle("dies").exists());
    assert_eq!(tasks.list(ctx).await.expect("listed").len(), 2);

    tasks.kill(ctx, "stays", "", SIGKILL, false).await.expect("killed");
    for id in ["stays", "ends"] {
        patiently(tasks.wait(ctx, id, "")).await.expect("waited");
        assert_eq!(tasks.delete(ctx, id, "").await.expect("deleted").status, 137);
    }
    node.no_shims().await;
}

#[tokio::test]
async fn a_shim_that_hangs_delays_nobody_but_its_own_task() {
    let mut node = Node::start().await;
    for id in ["well", "hung"] {
        node.container(id, "exec sleep 1000").await;
        node.run(id).await;
    }
    node.halt().await;
    let hung = node.shim_of("hung");
    nix::sys::signal::kill(hung, nix::sys::signal::Signal::SIGSTOP).expect("stopped");
    node.timeouts
        .insert("io.containerd.timeout.shim.load".into(), "30s".into());
    node.boot().await;
    assert_eq!(
        node.state("well").await,
        Ok(ProcessState::Running),
        "while the other is still asked"
    );
    node.halt().await;

    node.timeouts
        .insert("io.containerd.timeout.shim.load".into(), "100ms".into());
    node.boot().await;
    assert_eq!(node.state("hung").await, Err(Code::NotFound));
    assert!(!node.bundle("hung").exists());
    let topics = node.event("/tasks/delete").await;
    assert!(topics.contains(&"/tasks/exit".to_owned()), "{topics:?}");
    assert_eq!(node.state("well").await, Ok(ProcessState::Running));
}

#[tokio::test]
async fn what_a_restart_finds_without_a_record_is_removed() {
    let mut node = Node::start().await;
    node.container("box", "exec sleep 1000").await;
    node.run("box").await;
    node.halt().await;
    orlop_plugin::contract::Containers::delete(&*node.records, &node.ctx, "box")
        .await
        .expect("forgotten");
    // A bundle that was never filled, one half removed, and a work directory that a reboot left.
    for path in [
        node.bundle("empty"),
        node.bundle(".half").join("rootfs"),
        node.work("stale"),
    ] {
        std::fs::create_dir_all(path).expect("made");
    }
    node.boot().await;
    assert!(node.tasks().list(&node.ctx).await.expect("listed").is_empty());
    node.no_shims().await;
    for gone in [node.bundle("box"), node.bundle("empty"), node.bundle(".half")] {
        assert!(!gone.exists(), "{}", gone.display());
    }
}

#[tokio::test]
async fn many_tasks_at_once_and_all_back_after_a_restart() {
    const TASKS: usize = 12;
    let mut node = Node::start().await;
    let ids: Vec<String> = (0..TASKS).map(|n| format!("box-{n}")).collect();
    for id in &ids {
        node.container(id, "exec sleep 1000").await;
    }
    futures_util::future::join_all(ids.iter().map(|id| node.run(id))).await;
    node.halt().await;
    let before = Instant::now();
    node.boot().await;
    let listed = node.tasks().list(&node.ctx).await.expect("listed");
    eprintln!("{TASKS} tasks answered {:?} after the start", before.elapsed());
    assert!(listed.len() == TASKS && listed.iter().all(|process| process.state == ProcessState::Running));
    let (tasks, ctx) = (node.tasks(), &node.ctx);
    futures_util::future::join_all(ids.iter().map(async |id| {
        tasks.kill(ctx, id, "", SIGKILL, false).await.expect("killed");
        patiently(tasks.wait(ctx, id, "")).await.expect("waited");
        tasks.delete(ctx, id, "").await.expect("deleted");
    }))
    .await;
    node.no_shims().await;
}
