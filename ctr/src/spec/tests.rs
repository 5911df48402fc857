//! What a specification must look like, field by field where clients and runtimes depend on it.

use super::build::{Request, Rootfs, build, from_file};
use super::caps::from_mask;
use super::default::default_spec;
use super::flags::{RunFlags, SpecFlags};
use super::image::ImageConfig;
use super::model::*;
use super::parse;
use super::users::{Users, parse_group, parse_passwd};

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn image() -> ImageConfig {
    ImageConfig::from_json(
        br#"{"config":{"Env":["PATH=/bin","A=1"],"Entrypoint":["/init"],"Cmd":["serve"],"WorkingDir":"/srv","User":null}}"#,
    )
    .unwrap()
}

fn users() -> Users {
    Users {
        passwd: Some(parse_passwd(
            "root:x:0:0::/:/bin/sh\n# c\nbroken\napp:x:1000:1001::/:/bin/sh\n",
        )),
        group: Some(parse_group(
            "root:x:0:root\nwheel:x:10:root,app\napp:x:1001:app\naudio:x:29:app\n",
        )),
    }
}

fn spec_of(flags: &SpecFlags, run: &RunFlags, args: &[&str]) -> anyhow::Result<Spec> {
    let (config, users, args) = (image(), users(), strings(args));
    build(&Request {
        namespace: "ns",
        id: "c1",
        flags,
        run,
        rootfs: Rootfs::Image(&config),
        args: &args,
        users: &users,
    })
}

#[test]
fn the_image_gives_command_environment_and_directory() {
    let spec = spec_of(&SpecFlags::default(), &RunFlags::default(), &[]).unwrap();
    assert_eq!(spec.process.args, ["/init", "serve"]);
    assert_eq!(spec.process.env, ["PATH=/bin", "A=1"]);
    assert_eq!(spec.process.cwd, "/srv");
    assert_eq!(
        spec.process.user,
        User {
            uid: 0,
            gid: 0,
            additional_gids: vec![0, 10]
        }
    );
    assert_eq!(spec.linux.cgroups_path, "/ns/c1");
    assert_eq!(spec.linux.resources.devices.len(), 10);
}

#[test]
fn flags_win_over_the_image() {
    let flags = SpecFlags {
        env: strings(&["A=2", "B=3"]),
        cwd: Some("/tmp".into()),
        user: Some("app".into()),
        read_only: true,
        tty: true,
        cap_add: strings(&["CAP_NET_ADMIN"]),
        cap_drop: strings(&["CAP_MKNOD"]),
        mount: strings(&["type=tmpfs,src=tmpfs,dst=/run/,options=ro:nosuid"]),
        memory_limit: 1 << 20,
        hostname: Some("h".into()),
        label: strings(&["k=v"]),
        ..SpecFlags::default()
    };
    let run = RunFlags {
        cpus: 1.5,
        cpu_shares: 512,
        rlimit_nofile: Some("5:6".into()),
        ..RunFlags::default()
    };
    let spec = spec_of(&flags, &run, &["/bin/echo", "hi"]).unwrap();
    assert_eq!(spec.process.args, ["/bin/echo", "hi"]);
    assert_eq!(spec.process.env, ["PATH=/bin", "A=2", "B=3", "TERM=xterm"]);
    assert_eq!(
        spec.process.user,
        User {
            uid: 1000,
            gid: 1001,
            additional_gids: vec![1001, 10, 29]
        }
    );
    assert!(spec.root.readonly && spec.process.terminal);
    assert!(spec.process.capabilities.bounding.contains(&"CAP_NET_ADMIN".to_owned()));
    assert!(!spec.process.capabilities.effective.contains(&"CAP_MKNOD".to_owned()));
    let run_mounts: Vec<_> = spec
        .mounts
        .iter()
        .filter(|m| m.destination.starts_with("/run"))
        .collect();
    assert_eq!(run_mounts.len(), 1, "a mount over a default one replaces it");
    assert_eq!(run_mounts[0].options, ["ro", "nosuid"]);
    let cpu = spec.linux.resources.cpu.unwrap();
    assert_eq!(
        (cpu.shares, cpu.quota, cpu.period),
        (Some(512), Some(150_000), Some(100_000))
    );
    assert_eq!(spec.linux.resources.memory.unwrap().limit, Some(1 << 20));
    assert_eq!(spec.annotations["k"], "v");
    assert_eq!(
        spec.process.rlimits,
        [Rlimit {
            kind: "RLIMIT_NOFILE".into(),
            hard: 6,
            soft: 5
        }]
    );
}

#[test]
fn a_privileged_container_hides_nothing_and_keeps_cap_drop() {
    let flags = SpecFlags {
        privileged: true,
        cap_drop: strings(&["CAP_CHOWN"]),
        ..SpecFlags::default()
    };
    let run = RunFlags {
        privileged_without_host_devices: true,
        ..RunFlags::default()
    };
    let spec = spec_of(&flags, &run, &[]).unwrap();
    assert!(spec.linux.masked_paths.is_empty() && spec.linux.readonly_paths.is_empty());
    assert!(!spec.process.capabilities.bounding.contains(&"CAP_CHOWN".to_owned()));
    let sys = spec.mounts.iter().find(|m| m.destination == "/sys").unwrap();
    assert!(sys.options.contains(&"rw".to_owned()) && !sys.options.contains(&"ro".to_owned()));
}

#[test]
fn namespaces_are_joined_dropped_and_added() {
    let flags = SpecFlags {
        net_host: true,
        with_ns: strings(&["pid:/proc/1/ns/pid"]),
        ..SpecFlags::default()
    };
    let run = RunFlags {
        uidmap: strings(&["0:1000:10"]),
        gidmap: strings(&["0:2000:10"]),
        ..RunFlags::default()
    };
    let spec = spec_of(&flags, &run, &[]).unwrap();
    let kinds: Vec<_> = spec.linux.namespaces.iter().map(|n| n.kind.as_str()).collect();
    assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "user"]);
    assert_eq!(spec.linux.namespaces[0].path, "/proc/1/ns/pid");
    assert_eq!(
        spec.linux.gid_mappings,
        [IdMapping {
            container_id: 0,
            host_id: 2000,
            size: 10
        }]
    );
    assert!(spec.mounts.iter().any(|m| m.destination == "/etc/resolv.conf"));
}

#[test]
fn what_cannot_be_done_is_refused() {
    let cases: [(SpecFlags, RunFlags, &str); 6] = [
        (
            SpecFlags {
                gpus: vec![0],
                ..SpecFlags::default()
            },
            RunFlags::default(),
            "--gpus",
        ),
        (
            SpecFlags {
                cap_add: strings(&["NET_ADMIN"]),
                ..SpecFlags::default()
            },
            RunFlags::default(),
            "CAP_",
        ),
        (
            SpecFlags {
                seccomp_profile: Some("/x".into()),
                ..SpecFlags::default()
            },
            RunFlags::default(),
            "seccomp must be set",
        ),
        (
            SpecFlags {
                cpu_quota: Some(1),
                ..SpecFlags::default()
            },
            RunFlags {
                cpus: 1.0,
                ..RunFlags::default()
            },
            "separately",
        ),
        (
            SpecFlags::default(),
            RunFlags {
                uidmap: strings(&["0:0:1"]),
                ..RunFlags::default()
            },
            "together",
        ),
        (
            SpecFlags::default(),
            RunFlags {
                privileged_without_host_devices: true,
                ..RunFlags::default()
            },
            "without 'privileged'",
        ),
    ];
    for (flags, run, message) in cases {
        let error = format!("{:#}", spec_of(&flags, &run, &[]).unwrap_err());
        assert!(error.contains(message), "{error} lacks {message}");
    }
}

#[test]
fn the_default_filter_opens_with_capabilities() {
    let plain = spec_of(
        &SpecFlags {
            seccomp: true,
            ..SpecFlags::default()
        },
        &RunFlags::default(),
        &[],
    )
    .unwrap();
    let admin = SpecFlags {
        seccomp: true,
        cap_add: strings(&["CAP_SYS_ADMIN"]),
        ..SpecFlags::default()
    };
    let admin = spec_of(&admin, &RunFlags::default(), &[]).unwrap();
    let action = |spec: &Spec, call: &str| {
        let profile = spec.linux.seccomp.clone().unwrap();
        let rules = profile["syscalls"].as_array().unwrap().clone();
        let rule = rules
            .iter()
            .rfind(|rule| rule["names"].as_array().unwrap().contains(&call.into()))
            .cloned();
        rule.map(|rule| rule["action"].as_str().unwrap().to_owned())
    };
    assert_eq!(action(&plain, "read").as_deref(), Some("SCMP_ACT_ALLOW"));
    assert_eq!(action(&plain, "mount"), None);
    assert_eq!(action(&plain, "clone3").as_deref(), Some("SCMP_ACT_ERRNO"));
    assert_eq!(action(&admin, "mount").as_deref(), Some("SCMP_ACT_ALLOW"));
    assert_eq!(action(&admin, "clone3").as_deref(), Some("SCMP_ACT_ALLOW"));
}

#[test]
fn users_are_found_by_name_number_and_group() {
    let users = users();
    let identity = |text: &str| users.identity(text).map(|user| (user.uid, user.gid));
    assert_eq!(identity("app").unwrap(), (1000, 1001));
    assert_eq!(identity("1000").unwrap(), (1000, 1001));
    assert_eq!(
        identity("4242").unwrap(),
        (4242, 0),
        "an unknown number is taken as it is"
    );
    assert_eq!(identity("app:audio").unwrap(), (1000, 29));
    assert_eq!(identity("7:8").unwrap(), (7, 8));
    for bad in [
        "ghost",
        "app:ghost",
        "1:2:3",
        "-1",
        "2147483648",
        "4294967296",
        "99999999999999999999",
    ] {
        assert!(identity(bad).is_err(), "{bad} must be refused");
    }
    assert!(
        Users::default()
            .identity("app")
            .unwrap_err()
            .to_string()
            .contains("/etc/passwd")
    );
    assert_eq!(users.additional_gids("1000", 1001).unwrap(), [1001, 10, 29]);
    assert_eq!(Users::default().additional_gids("root", 0).unwrap(), [0]);
}

#[test]
fn mounts_are_read_like_csv() {
    let mount = parse::mount(r#"type=bind,"src=/a,b",dst=/c,options=rbind:ro"#).unwrap();
    assert_eq!((mount.source.as_str(), mount.destination.as_str()), ("/a,b", "/c"));
    assert_eq!(mount.options, ["rbind", "ro"]);
    for bad in [
        "type=bind,src",
        "typo=bind,dst=/a",
        r#""src=/a"#,
        "type=bind,src=/a",
        r#"sr"c=/a,dst=/b"#,
    ] {
        assert!(parse::mount(bad).is_err(), "{bad} must be refused");
    }
}

#[test]
fn environment_is_replaced_in_place_and_unset_by_a_bare_key() {
    let env = parse::override_env(&strings(&["A=1", "B=2", "C=3"]), &strings(&["B=x=y", "A", "D", "E="]));
    assert_eq!(env, ["B=x=y", "C=3", "E="]);
}

#[test]
fn labels_annotations_and_limits() {
    assert_eq!(parse::labels(&["a=b=c", "flag"])["a"], "b=c");
    assert_eq!(parse::labels(&["flag"])["flag"], "true");
    assert!(parse::annotations(&strings(&["flag"])).is_err());
    assert_eq!(parse::rlimit("10").unwrap(), (10, 10));
    assert!(parse::rlimit("20:10").is_err());
    assert!(parse::id_mapping("0:0").is_err() && parse::id_mapping("0:0:4294967296").is_err());
    assert!(parse::namespace("net:/x").is_err());
}

#[test]
fn capability_masks_name_their_bits() {
    assert_eq!(from_mask(0b1001), ["CAP_CHOWN", "CAP_FOWNER"]);
    assert_eq!(from_mask(1 << 40), ["CAP_CHECKPOINT_RESTORE"]);
    assert!(from_mask(1 << 63).is_empty());
}

#[test]
fn the_default_leaves_out_what_the_specification_leaves_out() {
    let json = serde_json::to_value(default_spec("default", "")).unwrap();
    assert_eq!(json["linux"]["cgroupsPath"], "/default");
    assert_eq!(
        json["linux"]["resources"]["devices"][0],
        serde_json::json!({"allow": false, "access": "rwm"})
    );
    assert_eq!(json["process"]["user"], serde_json::json!({"uid": 0, "gid": 0}));
    for absent in ["terminal", "args", "env"] {
        assert!(json["process"].get(absent).is_none(), "{absent}");
    }
    assert!(json.get("hostname").is_none() && json.get("annotations").is_none());
}

#[test]
fn a_given_specification_is_kept_whole() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        r#"{"ociVersion":"1.0.2","vendor":{"x":1},"annotations":{"a":"b"}}"#,
    )
    .unwrap();
    let spec = from_file(file.path(), &strings(&["k=v"])).unwrap();
    assert_eq!(spec["vendor"]["x"], 1);
    assert_eq!(spec["annotations"], serde_json::json!({"a": "b", "k": "v"}));
    std::fs::write(file.path(), "[]").unwrap();
    assert!(from_file(file.path(), &[]).is_err());
}
