//! The shim under Debian's containerd, with its `ctr` and runc: what a client sees, and that nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod daemon;

use daemon::{Containerd, IMAGE, eventually};

#[test]
fn a_container_runs_and_tells_how_it_ended() {
    let daemon = Containerd::start();
    let run = |id: &str, script: &str| daemon.ctr(&["run", "--rm", IMAGE, id, "/bin/sh", "-c", script]);
    assert_eq!(
        run("hello", "echo out; echo err >&2"),
        (0, "out\n".into(), "err\n".into())
    );
    for code in [1, 42, 127, 255] {
        assert_eq!(run(&format!("c{code}"), &format!("exit {code}")).0, code);
    }
    // The first process of a pid namespace is not ended by its own signals, a child is.
    assert_eq!(run("signal", "sh -c 'kill -TERM $$'; exit $?").0, 143);
    let (code, _, error) = daemon.ctr(&["run", "--rm", IMAGE, "missing", "/bin/nonesuch"]);
    assert_ne!(code, 0);
    assert!(
        error.contains("OCI runtime create failed") && error.contains("/bin/nonesuch"),
        "{error}"
    );
    daemon.nothing_is_left();
}

#[test]
fn crun_does_as_well() {
    let daemon = Containerd::start_for_crun();
    let crun = ["--runc-binary", "crun"];
    let run = |id: &str, script: &str| {
        daemon.ctr(&[&["run", "--rm"], &crun[..], &[IMAGE, id, "/bin/sh", "-c", script]].concat())
    };
    assert_eq!(run("hello", "echo out; exit 6"), (6, "out\n".into(), String::new()));
    let (code, _, error) = daemon.ctr(&[&["run", "--rm"], &crun[..], &[IMAGE, "missing", "/bin/nonesuch"]].concat());
    assert!(code != 0 && error.contains("/bin/nonesuch"), "{code} {error}");
    daemon.ok(&[&["run", "-d"], &crun[..], &[IMAGE, "box", "/bin/sleep", "1000"]].concat());
    let (code, screen) = daemon.in_terminal("task exec -t --exec-id e box /bin/sh -c 'tty; exit 5'");
    assert!(code == 5 && screen.contains("/dev/pts/"), "{code} {screen}");
    daemon.ok(&["task", "pause", "box"]);
    daemon.ok(&["task", "resume", "box"]);
    daemon.end("box");
    daemon.nothing_is_left();
}

#[test]
fn a_user_namespace_has_its_own_root() {
    let daemon = Containerd::start();
    let script = "cat /proc/self/uid_map; echo again >/dev/stdout";
    let maps = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let out = daemon.ok(&[&["run", "--rm"], &maps[..], &[IMAGE, "mapped", "/bin/sh", "-c", script]].concat());
    let words: Vec<_> = out.split_whitespace().collect();
    assert_eq!(words, ["0", "100000", "65536", "again"]);
    daemon.nothing_is_left();
}

#[test]
fn not_a_byte_of_output_is_lost() {
    let daemon = Containerd::start();
    let (code, out, _) = daemon.ctr(&["run", "--rm", IMAGE, "many", "/bin/seq", "1", "300000"]);
    assert_eq!(code, 0);
    assert!(
        out.lines()
            .map(str::parse)
            .eq((1..=300_000).map(Ok::<u32, std::num::ParseIntError>))
    );
    let log = daemon.path("deep/down/log");
    let uri = format!("file://{}", log.display());
    daemon.ok(&[
        "run",
        "--rm",
        "--log-uri",
        &uri,
        IMAGE,
        "logged",
        "/bin/sh",
        "-c",
        "echo one; echo two >&2",
    ]);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "one\ntwo\n");
}

#[test]
fn processes_are_added_with_and_without_a_terminal() {
    let daemon = Containerd::start();
    daemon.ok(&["run", "-d", IMAGE, "box", "/bin/sleep", "1000"]);
    let exec = |id: &str, script: &str| daemon.ctr(&["task", "exec", "--exec-id", id, "box", "/bin/sh", "-c", script]);
    assert_eq!(
        exec("e1", "echo out; echo err >&2; exit 7"),
        (7, "out\n".into(), "err\n".into())
    );
    assert_eq!(exec("e1", "exit 0").0, 0, "the id is free again");
    let (code, out) = daemon.in_terminal("task exec -t --exec-id e2 box /bin/sh -c 'test -t 0 && tty; exit 5'");
    assert_eq!(code, 5);
    assert!(out.contains("/dev/pts/"), "{out:?}");
    let (code, _, error) = daemon.ctr(&["task", "exec", "--exec-id", "e3", "box", "/bin/nonesuch"]);
    assert_ne!(code, 0);
    assert!(error.contains("OCI runtime exec failed"), "{error}");
    daemon.end("box");
    daemon.nothing_is_left();
}

#[test]
fn a_container_is_paused_measured_and_killed() {
    let daemon = Containerd::start();
    daemon.ok(&["run", "-d", IMAGE, "box", "/bin/sleep", "1000"]);
    daemon.ok(&["task", "pause", "box"]);
    assert!(daemon.ok(&["task", "ls"]).contains("PAUSED"));
    daemon.ok(&["task", "resume", "box"]);
    assert!(daemon.ok(&["task", "ls"]).contains("RUNNING"));
    let metrics = daemon.ok(&["task", "metrics", "box"]);
    assert!(
        metrics.contains("memory.usage_in_bytes") || metrics.contains("memory.usage"),
        "{metrics}"
    );
    let listed = daemon.ok(&["task", "ls"]);
    let pid = listed
        .lines()
        .find_map(|line| line.strip_prefix("box"))
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    assert!(daemon.ok(&["task", "ps", "box"]).contains(pid));
    // A paused container dies too.
    daemon.ok(&["task", "pause", "box"]);
    daemon.ok(&["task", "kill", "-s", "SIGKILL", "box"]);
    eventually("it ends", || daemon.ok(&["task", "ls"]).contains("STOPPED"));
    let (_, _, error) = daemon.ctr(&["task", "kill", "-s", "SIGTERM", "box"]);
    assert!(error.contains("not found"), "{error}");
    daemon.end("box");
    daemon.nothing_is_left();
}

#[test]
fn the_oom_killer_is_told() {
    let daemon = Containerd::start();
    let events = daemon.events();
    let limit = [
        "run",
        "--rm",
        "--memory-limit",
        "20000000",
        IMAGE,
        "box",
        "/bin/tail",
        "/dev/zero",
    ];
    assert_eq!(daemon.ctr(&limit).0, 137);
    eventually("an event", || events.so_far().contains("/tasks/oom"));
    let told = events.so_far();
    let at = |topic: &str| told.find(topic).unwrap_or_else(|| panic!("no {topic} in {told}"));
    assert!(
        at("/tasks/create") < at("/tasks/start") && at("/tasks/start") < at("/tasks/exit"),
        "{told}"
    );
}

#[test]
fn the_containers_of_a_group_share_a_shim() {
    let daemon = Containerd::start();
    for id in ["one", "two"] {
        let group = "io.containerd.runc.v2.group=pod";
        daemon.ok(&["run", "-d", "--annotation", group, IMAGE, id, "/bin/sleep", "1000"]);
    }
    assert_eq!(daemon.shims().len(), 1);
    daemon.end("one");
    assert_eq!(
        daemon.ok(&["task", "exec", "--exec-id", "e", "two", "/bin/echo", "there"]),
        "there\n"
    );
    daemon.end("two");
    daemon.nothing_is_left();
}

#[test]
fn what_a_dead_shim_leaves_is_removed() {
    let daemon = Containerd::start();
    daemon.ok(&["run", "-d", IMAGE, "box", "/bin/sleep", "1000"]);
    daemon.kill_shims();
    eventually("the daemon cleans up", || !daemon.ok(&["task", "ls"]).contains("box"));
    daemon.ok(&["container", "rm", "box"]);
    daemon.nothing_is_left();
}

#[test]
fn an_end_that_the_daemon_did_not_see_is_not_lost() {
    let mut daemon = Containerd::start();
    daemon.ok(&[
        "run",
        "-d",
        IMAGE,
        "box",
        "/bin/sh",
        "-c",
        "while ! test -e /tmp/go; do sleep 0.05; done; exit 23",
    ]);
    daemon.kill();
    let shim = daemon.shims()[0];
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    let init = children.split_whitespace().next().unwrap().to_owned();
    std::fs::write(format!("/proc/{init}/root/tmp/go"), "").unwrap();
    eventually("it ends", || {
        !std::path::Path::new(&format!("/proc/{init}/root/bin")).exists()
    });
    daemon.restart();
    assert!(daemon.ok(&["task", "ls"]).contains("STOPPED"));
    let (code, _, error) = daemon.ctr(&["task", "rm", "box"]);
    assert!(code == 23 || error.contains("23"), "{code} {error}");
    daemon.ok(&["container", "rm", "box"]);
    daemon.nothing_is_left();
}

#[test]
fn a_container_costs_less_than_promised() {
    let daemon = Containerd::start();
    daemon.ok(&["run", "-d", IMAGE, "box", "/bin/sleep", "1000"]);
    let shim = daemon.shims()[0];
    let memory = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let own = memory.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
    // What is mapped from the binary is there once for all shims.
    let kib: u64 = own.trim().trim_end_matches("kB").trim().parse().unwrap();
    assert!(kib < 600, "{memory}");
    let threads = std::fs::read_dir(format!("/proc/{shim}/task")).unwrap().count();
    assert_eq!(threads, 1);
    daemon.end("box");
}
