use super::*;

fn own(host: &str) -> HostConfig {
    HostConfig::of_name(host, "").expect("valid")
}

#[test]
fn a_registry_is_its_own_host() {
    #[track_caller]
    fn check(host: &str, default_scheme: &str, scheme: Scheme, skip_verify: bool) {
        let config = HostConfig::of_name(host, default_scheme).expect("valid");
        assert_eq!(
            (config.scheme, config.skip_verify),
            (scheme, skip_verify),
            "{host} {default_scheme}"
        );
    }
    check("quay.io", "", Scheme::Https, false);
    check("quay.io:5000", "", Scheme::Https, false);
    check("quay.io:5000", "http", Scheme::Http, false);
    check("localhost:5000", "", Scheme::Either, true);
    check("127.0.0.1:5000", "http", Scheme::Http, false);
    check("[::1]:5000", "", Scheme::Either, true);
    check("[::1]", "", Scheme::Https, true);
    check("localhost", "", Scheme::Https, true);
    check("localhost:80", "", Scheme::Http, false);
    check("docker.io", "http", Scheme::Https, false);
    assert_eq!(own("docker.io").authority, "registry-1.docker.io");
    assert!(!own("docker.io").is_proxy_of("docker.io") && own("mirror:5000").is_proxy_of("docker.io"));
    assert!(HostConfig::of_name("quay.io", "ftp").is_err());
}

#[test]
fn hosts_come_in_the_order_of_the_file_and_the_server_last() {
    let text = r#"
        server = "https://registry-1.docker.io"
        skip_verify = true
        [host."http://zebra.example:5000"]
        capabilities = ["pull", "Resolve"]
        [host."http://zebra.example:5000".header]
        x-one = "1"
        x-two = ["2", "3"]
        [host."aardvark.example/prefix"]
        ca = "ca.pem"
        client = [["a.cert", "/a.key"]]
        dial_timeout = "1m30s"
        [host."https://middle.example/api"]
        override_path = true
        ca = ["/x.pem", "y.pem"]
        client = "both.pem"
    "#;
    let hosts = parse(text, Path::new("/certs"), own("docker.io")).expect("valid");
    let named: Vec<_> = hosts
        .iter()
        .map(|host| (host.authority.as_str(), host.path.as_str()))
        .collect();
    assert_eq!(
        named,
        [
            ("zebra.example:5000", "/v2"),
            ("aardvark.example", "/prefix/v2"),
            ("middle.example", "/api"),
            ("registry-1.docker.io", "/v2")
        ]
    );
    assert_eq!(hosts[0].scheme, Scheme::Http);
    assert_eq!(hosts[0].capabilities, Capabilities { push: false, ..ALL });
    assert_eq!(hosts[0].header.get_all("X-Two").iter().collect::<Vec<_>>(), ["2", "3"]);
    assert_eq!(hosts[1].ca, [Path::new("/certs/ca.pem")]);
    assert_eq!(
        hosts[1].client,
        [(PathBuf::from("/certs/a.cert"), Some(PathBuf::from("/a.key")))]
    );
    assert_eq!(hosts[1].dial_timeout, Some(Duration::from_secs(90)));
    assert_eq!(hosts[2].client, [(PathBuf::from("/certs/both.pem"), None)]);
    assert!(hosts[3].skip_verify && !hosts[0].skip_verify);
}

#[test]
fn without_a_server_the_registry_itself_comes_last() {
    let text = "[host.\"http://mirror:80\"]\nskip_verify = true\n[host.\"http://other:81\"]\nca = 'x'";
    let hosts = parse(text, Path::new("/"), own("quay.io")).expect("valid");
    assert_eq!(hosts.len(), 3);
    assert_eq!(hosts[0].scheme, Scheme::Http, "port 80 is never tried with TLS");
    assert_eq!(hosts[1].scheme, Scheme::Either);
    assert_eq!(hosts[2].authority, "quay.io");
}

#[test]
fn what_is_wrong_is_named() {
    for (text, why) in [
        ("server = 1", "server"),
        ("[host.\"ftp://a\"]", "ftp"),
        ("[host.\"http://a b\"]", "no URL"),
        ("[host.\"a\"]\ncapabilities = [\"fly\"]", "fly"),
        ("[host.\"a\"]\ndial_timeout = \"soon\"", "soon"),
        ("[host.\"a\".header]\n\"a b\" = \"\"", "a b"),
        ("[host", "TOML"),
    ] {
        let error = parse(text, Path::new("/"), own("quay.io")).expect_err(text);
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
}

#[test]
fn the_directory_of_the_registry_goes_before_the_default() {
    let root = tempfile::tempdir().expect("a directory");
    let load = |host: &str| {
        let roots = format!("/nowhere:{}", root.path().display());
        load(host, &roots, "").expect("loaded")
    };
    assert_eq!(load("quay.io:5000")[0].authority, "quay.io:5000");
    let write = |directory: &str, file: &str, text: &str| {
        let directory = root.path().join(directory);
        std::fs::create_dir_all(&directory).expect("made");
        std::fs::write(directory.join(file), text).expect("written");
    };
    write("_default", "hosts.toml", "[host.\"https://mirror\"]");
    assert_eq!(load("quay.io:5000")[0].authority, "mirror");
    assert_eq!(load("quay.io:5000")[1].authority, "quay.io:5000");
    write("quay.io_5000_", "a.crt", "");
    write("quay.io_5000_", "b.cert", "");
    write("quay.io_5000_", "b.key", "");
    let certificates = root.path().join("quay.io_5000_");
    let found = load("quay.io:5000").remove(0);
    assert_eq!(found.ca, [certificates.join("a.crt")]);
    assert_eq!(
        found.client,
        [(certificates.join("b.cert"), Some(certificates.join("b.key")))]
    );
}
