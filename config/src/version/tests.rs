use super::*;

fn lifted(text: &str) -> Table {
    let mut table: Table = text.parse().unwrap();
    let from = declared(&table).unwrap().unwrap_or(1);
    table.remove("version");
    lift(&mut table, from);
    table
}

#[track_caller]
fn check_lift(from: &str, to: &str) {
    assert_eq!(lifted(from), to.parse::<Table>().unwrap());
}

#[test]
fn version_1_ids_become_uris() {
    for (id, uri) in [
        ("overlayfs", "io.containerd.snapshotter.v1.overlayfs"),
        ("diff-service", "io.containerd.service.v1.diff-service"),
        ("windows", "io.containerd.snapshotter.v1.windows"),
        ("scheduler", "io.containerd.gc.v1.scheduler"),
        ("introspection", "io.containerd.grpc.v1.introspection"),
        ("io.containerd.gc.v1.scheduler", "io.containerd.gc.v1.scheduler"),
    ] {
        assert_eq!(uri_of_version_1(id), uri);
    }
    check_lift(
        "[plugins.scheduler]\npause_threshold = 0.5\n[plugins.restart]\ninterval = '3s'",
        "[plugins.'io.containerd.gc.v1.scheduler']\npause_threshold = 0.5\n\
         [plugins.'io.containerd.monitor.container.v1.restart']\ninterval = '3s'",
    );
}

#[test]
fn cri_is_split_in_three() {
    check_lift(
        "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'pause'\nenable_selinux = true\n\
         disable_tcp_service = false\nstats_collect_period = 7\ncni.bin_dir = '/cni'\ncni.conf_dir = '/net.d'\n\
         containerd.snapshotter = 'native'\ncontainerd.runtimes.runc.sandbox_mode = 'shim'\nregistry.config_path = '/r'",
        "[plugins.'io.containerd.grpc.v1.cri']\ndisable_tcp_service = false\n\
         [plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'native'\nstats_collect_period = 7\n\
         pinned_images.sandbox = 'pause'\nregistry.config_path = '/r'\n\
         [plugins.'io.containerd.cri.v1.runtime']\nenable_selinux = true\ncni.bin_dirs = ['/cni']\ncni.conf_dir = '/net.d'\n\
         containerd.runtimes.runc.sandboxer = 'shim'",
    );
}

#[test]
fn a_split_table_joins_again() {
    let mut plugins = lifted(
        "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'pause'\nenable_selinux = true\n\
         disable_tcp_service = false\ncni.bin_dir = '/cni'\ncontainerd.snapshotter = 'native'\n\
         containerd.runtimes.runc.sandbox_mode = 'shim'\nregistry.config_path = '/r'",
    )["plugins"]
        .as_table()
        .unwrap()
        .clone();
    join_cri(&mut plugins);
    assert_eq!(
        plugins,
        "['io.containerd.grpc.v1.cri']\nsandbox_image = 'pause'\nenable_selinux = true\n\
         disable_tcp_service = false\ncni.bin_dir = '/cni'\ncontainerd.snapshotter = 'native'\n\
         containerd.runtimes.runc.sandbox_mode = 'shim'\nregistry.config_path = '/r'"
            .parse::<Table>()
            .unwrap()
    );
}

#[test]
fn version_4_is_left_as_it_is() {
    let text = "[plugins.'io.containerd.grpc.v1.cri']\nenable_selinux = true\n[plugins.'io.containerd.server.v1.grpc']\nuid = 3";
    check_lift(&format!("version = 4\n{text}"), text);
}

#[test]
fn listeners_move_and_ttrpc_follows_grpc() {
    check_lift(
        "version = 3\n[grpc]\naddress = '/x'\nuid = 7\ntcp_address = ':1'\ntcp_tls_ca = '/ca'\n\
         [debug]\nlevel = 'debug'\naddress = '/d'\n[metrics]\naddress = ':2'\ngrpc_histogram = true",
        "[debug]\nlevel = 'debug'\n[plugins.'io.containerd.server.v1.grpc']\naddress = '/x'\nuid = 7\n\
         [plugins.'io.containerd.server.v1.grpc-tcp']\naddress = ':1'\ntls_ca = '/ca'\n\
         [plugins.'io.containerd.server.v1.ttrpc']\naddress = '/x.ttrpc'\nuid = 7\n\
         [plugins.'io.containerd.server.v1.debug']\naddress = '/d'\n[plugins.'io.containerd.server.v1.metrics']\naddress = ':2'\n\
         [plugins.'io.containerd.metrics.v1.grpc-prometheus']\ngrpc_histogram = true",
    );
}

#[test]
fn unset_listeners_do_not_move() {
    check_lift(
        "version = 2\n[grpc]\nuid = 0\ntcp_address = ''\n[ttrpc]\naddress = ''\n[debug]\naddress = ''",
        "",
    );
}

#[test]
fn sched_core_becomes_shim_environment() {
    let mut plugins: Table = "['io.containerd.runtime.v2.task']\nsched_core = true\nplatforms = []"
        .parse()
        .unwrap();
    move_sched_core(&mut plugins);
    assert_eq!(
        plugins,
        "['io.containerd.runtime.v2.task']\nplatforms = []\n['io.containerd.shim.v1.manager']\nenv = ['SCHED_CORE=1']"
            .parse()
            .unwrap()
    );
}

#[test]
fn only_versions_1_to_4_exist() {
    assert_eq!(declared(&Table::new()), Ok(None));
    assert_eq!(declared(&"version = 4".parse().unwrap()), Ok(Some(4)));
    for bad in ["version = 0", "version = 5", "version = '2'", "version = -1"] {
        assert!(declared(&bad.parse().unwrap()).is_err(), "{bad}");
    }
}

#[test]
fn retired_cri_keys_are_named_when_they_said_something() {
    let mut plugins: Table = "['io.containerd.cri.v1.runtime']\nsystemd_cgroup = true\ndisable_cgroup = false\n\
        containerd.no_pivot = true\ncontainerd.runtimes.kata.runtime_root = '/r'\ncontainerd.runtimes.runc.runtime_root = ''"
        .parse()
        .unwrap();
    let dropped = drop_retired_cri_keys(&mut plugins);
    assert_eq!(dropped.len(), 3, "{dropped:?}");
    assert!(dropped.iter().any(|key| key.ends_with("runtimes.kata.runtime_root")));
}
