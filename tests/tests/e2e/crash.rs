//! What a killed daemon leaves running goes on under the next one.

use orlop_tests::Daemon;
use orlop_tests::command::eventually;
use orlop_tests::image::BUSYBOX;

#[test]
fn a_task_outlives_the_daemon_and_its_exit_is_reported() {
    let mut daemon = Daemon::orlop().start();
    daemon.import_busybox();
    daemon.ctr(&format!("run -d {BUSYBOX} lives /bin/sleep 1000")).ok();
    daemon.ctr(&format!("run -d {BUSYBOX} dies /bin/sleep 1000")).ok();
    let pid = pid_of(&daemon, "lives");
    let doomed = pid_of(&daemon, "dies");
    daemon.kill();
    // Its exit happens while nobody listens.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(doomed), nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.start();
    assert!(
        daemon
            .ctr("tasks ls")
            .ok()
            .lines()
            .any(|line| line.starts_with("lives") && line.contains("RUNNING"))
    );
    assert_eq!(pid_of(&daemon, "lives"), pid);
    assert_eq!(
        daemon.ctr("tasks exec --exec-id x lives /bin/echo alive").ok(),
        "alive\n"
    );
    eventually("the exit is known", || {
        daemon
            .ctr("tasks ls")
            .ok()
            .lines()
            .any(|line| line.starts_with("dies") && line.contains("STOPPED"))
    });
    assert!(daemon.ctr("tasks rm dies").exits(0).stderr.contains("137"));
    daemon.ctr("tasks kill -s SIGKILL lives").ok();
    eventually("the task stops", || daemon.ctr("tasks ls").ok().contains("STOPPED"));
    assert!(daemon.ctr("tasks rm lives").exits(0).stderr.contains("137"));
    daemon.ctr("containers rm lives dies").ok();
}

fn pid_of(daemon: &Daemon, task: &str) -> i32 {
    let tasks = daemon.ctr("tasks ls").ok();
    let line = tasks
        .lines()
        .find(|line| line.starts_with(task))
        .unwrap_or_else(|| panic!("no {task} in\n{tasks}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn nothing_that_was_acknowledged_is_lost() {
    let mut daemon = Daemon::orlop().start();
    for round in 0..3 {
        for number in 0..10 {
            daemon.ctr(&format!("leases create --id l{round}-{number}")).ok();
        }
        daemon.kill();
        daemon.start();
        assert_eq!(daemon.ctr("leases ls -q").ok().lines().count(), (round + 1) * 10);
    }
}

#[test]
fn an_orderly_end_leaves_containers_running_and_no_socket() {
    let mut daemon = Daemon::orlop().start();
    daemon.import_busybox();
    daemon.ctr(&format!("run -d {BUSYBOX} t1 /bin/sleep 1000")).ok();
    let pid = pid_of(&daemon, "t1");
    daemon.stop();
    assert!(!daemon.address().exists());
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    daemon.start();
    assert_eq!(pid_of(&daemon, "t1"), pid);
}
