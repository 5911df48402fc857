use super::*;

fn table(text: &str) -> Table {
    text.parse().unwrap()
}

fn example() -> PluginTables {
    PluginTables::from([
        (
            "io.containerd.gc.v1.scheduler".to_owned(),
            table(
                "deletion_threshold = 0\nmutation_threshold = 100\npause_threshold = 0.02\nschedule_delay = '0s'\nstartup_delay = '100ms'",
            ),
        ),
        (
            "io.containerd.internal.v1.restart".to_owned(),
            table("interval = '10s'"),
        ),
        (
            "io.containerd.transfer.v1.local".to_owned(),
            table(
                "max_concurrent_downloads = 3\nconfig_path = ''\n[[unpack_config]]\nplatform = 'linux/amd64'\nsnapshotter = 'overlayfs'\ndiffer = ''",
            ),
        ),
    ])
}

#[test]
fn version_2_is_laid_out_as_containerd_1_7_does() {
    let expected = r#"disabled_plugins = []
imports = []
oom_score = 0
plugin_dir = ""
required_plugins = []
root = "/var/lib/containerd"
state = "/run/containerd"
temp = ""
version = 2

[cgroup]
  path = ""

[debug]
  address = ""
  format = ""
  gid = 0
  level = ""
  uid = 0

[grpc]
  address = "/run/containerd/containerd.sock"
  gid = 0
  max_recv_message_size = 16777216
  max_send_message_size = 16777216
  tcp_address = ""
  tcp_tls_ca = ""
  tcp_tls_cert = ""
  tcp_tls_key = ""
  uid = 0

[metrics]
  address = ""
  grpc_histogram = false

[plugins]

  [plugins."io.containerd.gc.v1.scheduler"]
    deletion_threshold = 0
    mutation_threshold = 100
    pause_threshold = 0.02
    schedule_delay = "0s"
    startup_delay = "100ms"

  [plugins."io.containerd.internal.v1.restart"]
    interval = "10s"

  [plugins."io.containerd.transfer.v1.local"]
    config_path = ""
    max_concurrent_downloads = 3

    [[plugins."io.containerd.transfer.v1.local".unpack_config]]
      differ = ""
      platform = "linux/amd64"
      snapshotter = "overlayfs"

[proxy_plugins]

[stream_processors]

  [stream_processors."io.containerd.ocicrypt.decoder.v1.tar"]
    accepts = ["application/vnd.oci.image.layer.v1.tar+encrypted"]
    args = ["--decryption-keys-path", "/etc/containerd/ocicrypt/keys"]
    env = ["OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"]
    path = "ctd-decoder"
    returns = "application/vnd.oci.image.layer.v1.tar"

  [stream_processors."io.containerd.ocicrypt.decoder.v1.tar.gzip"]
    accepts = ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]
    args = ["--decryption-keys-path", "/etc/containerd/ocicrypt/keys"]
    env = ["OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"]
    path = "ctd-decoder"
    returns = "application/vnd.oci.image.layer.v1.tar+gzip"

[timeouts]
  "io.containerd.timeout.bolt.open" = "0s"
  "io.containerd.timeout.metrics.shimstats" = "2s"
  "io.containerd.timeout.shim.cleanup" = "5s"
  "io.containerd.timeout.shim.load" = "5s"
  "io.containerd.timeout.shim.shutdown" = "3s"
  "io.containerd.timeout.task.state" = "2s"

[ttrpc]
  address = ""
  gid = 0
  uid = 0
"#;
    assert_eq!(render_default(2, &example()).unwrap(), expected);
}

#[test]
fn version_4_is_laid_out_as_containerd_2_3_does() {
    let expected = "version = 4
root = '/var/lib/containerd'
state = '/run/containerd'
temp = ''
disabled_plugins = []
required_plugins = []
oom_score = 0
imports = ['/etc/containerd/conf.d/*.toml']

[debug]
  level = ''
  format = ''
  log_trace_id = false

[plugins]
  [plugins.'io.containerd.gc.v1.scheduler']
    pause_threshold = 0.02
    deletion_threshold = 0
    mutation_threshold = 100
    schedule_delay = '0s'
    startup_delay = '100ms'

  [plugins.'io.containerd.metrics.v1.grpc-prometheus']
    grpc_histogram = false

  [plugins.'io.containerd.monitor.container.v1.restart']
    interval = '10s'

  [plugins.'io.containerd.server.v1.debug']
    address = ''
    uid = 0
    gid = 0

  [plugins.'io.containerd.server.v1.grpc']
    address = '/run/containerd/containerd.sock'
    uid = 0
    gid = 0
    max_recv_message_size = 16777216
    max_send_message_size = 16777216

  [plugins.'io.containerd.server.v1.grpc-tcp']
    address = ''
    tls_ca = ''
    tls_cert = ''
    tls_key = ''
    tls_common_name = ''
    max_recv_message_size = 16777216
    max_send_message_size = 16777216

  [plugins.'io.containerd.server.v1.metrics']
    address = ''

  [plugins.'io.containerd.server.v1.ttrpc']
    address = '/run/containerd/containerd.sock.ttrpc'
    uid = 0
    gid = 0

  [plugins.'io.containerd.transfer.v1.local']
    max_concurrent_downloads = 3
    config_path = ''

    [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
      platform = 'linux/amd64'
      snapshotter = 'overlayfs'
      differ = ''

[cgroup]
  path = ''

[timeouts]
  'io.containerd.timeout.bolt.open' = '0s'
  'io.containerd.timeout.cri.defercleanup' = '1m0s'
";
    let printed = render_default(4, &example()).unwrap();
    assert_eq!(printed.get(..expected.len()), Some(expected));
}

#[test]
fn version_3_keeps_listeners_at_the_top() {
    let printed = render_default(3, &example()).unwrap();
    let parsed = table(&printed);
    assert_eq!(parsed["grpc"]["address"].as_str(), Some(crate::DEFAULT_ADDRESS));
    assert_eq!(parsed["ttrpc"]["address"].as_str(), Some(""));
    assert!(parsed["plugins"].get("io.containerd.server.v1.grpc").is_none());
    assert!(
        parsed["plugins"]
            .get("io.containerd.monitor.container.v1.restart")
            .is_some()
    );
    assert!(printed.starts_with("version = 3\nroot = "));
    assert!(render_default(1, &example()).is_err());
    assert!(render_default(5, &example()).is_err());
}

#[test]
fn defaults_pass_their_own_check_in_every_version() {
    for version in 2..=4 {
        let printed = render_default(version, &example()).unwrap();
        assert_eq!(crate::check(&printed, "f", &example()), [], "version {version}");
        let migrated = migrate(&printed, "f").unwrap();
        assert_eq!(
            crate::check(&migrated, "f", &example()),
            [],
            "version {version} migrated"
        );
    }
}

#[test]
fn a_migrated_file_says_only_what_the_old_one_said() {
    let old = "disabled_plugins = ['cri', 'aufs']\n[grpc]\naddress = '/x'\n[plugins.task]\nsched_core = true\n\
               [plugins.cri]\nsystemd_cgroup = true\ndisable_tcp_service = false";
    let expected = "# plugins.\"io.containerd.cri.v1.runtime\".systemd_cgroup has no meaning any more and was dropped
version = 4
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.snapshotter.v1.aufs']

[plugins]
  [plugins.'io.containerd.cri.v1.runtime']

  [plugins.'io.containerd.grpc.v1.cri']
    disable_tcp_service = false

  [plugins.'io.containerd.runtime.v2.task']

  [plugins.'io.containerd.server.v1.grpc']
    address = '/x'

  [plugins.'io.containerd.server.v1.ttrpc']
    address = '/x.ttrpc'

  [plugins.'io.containerd.shim.v1.manager']
    env = ['SCHED_CORE=1']
";
    assert_eq!(migrate(old, "f").unwrap(), expected);
}

#[test]
fn migrating_refuses_what_cannot_be_read() {
    let error = migrate("version = 2\nroot = 3\n", "/etc/c.toml").unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/c.toml:2:8: root must be a string, not an integer"
    );
    assert!(migrate("version = 9", "f").is_err());
}
