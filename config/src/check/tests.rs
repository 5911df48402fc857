use super::*;

fn known() -> PluginTables {
    PluginTables::from([(
        "acme.thing.v1.x".to_owned(),
        "interval = '5s'\nport = '0'\nlist = ['a']\nany = []\n[labels]\n[nested]\nflag = true"
            .parse()
            .unwrap(),
    )])
}

#[track_caller]
fn problems(text: &str, expected: &[&str]) {
    let found: Vec<_> = check(text, "f", &known()).iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_misspelt_key_has_its_place_and_the_nearest_name() {
    problems(
        "version = 2\nrot = '/x'\n\n[plugins]\n  [plugins.\"io.containerd.gc.v1.scheduler\"]\n    pause_treshold = 0.1\n",
        &[
            "f:2:1: unknown key \"rot\" at the top level; did you mean \"root\"?",
            "f:6:5: unknown key \"pause_treshold\" in [plugins.\"io.containerd.gc.v1.scheduler\"]; did you mean \"pause_threshold\"?",
        ],
    );
}

#[test]
fn an_unknown_plugin_has_the_nearest_uri() {
    problems(
        "version = 2\n[plugins.'io.containerd.gc.v1.schedular']\n",
        &["f:2:10: unknown plugin \"io.containerd.gc.v1.schedular\"; did you mean \"io.containerd.gc.v1.scheduler\"?"],
    );
    problems("[plugins.scheduler]\npause_threshold = 1\n", &[]);
}

#[test]
fn wrong_types_are_found_at_the_value() {
    problems(
        "version = 2\noom_score = '3'",
        &["f:2:13: oom_score must be an integer, not a string"],
    );
    problems(
        "version = 2\nimports = ['a', 5]",
        &["f:2:17: imports must be a string, not an integer"],
    );
    problems(
        "version = 2\ngrpc = 5",
        &["f:2:8: grpc must be a table, not an integer"],
    );
    problems(
        "version = 2\n[plugins.'acme.thing.v1.x']\nnested.flag = 1\nlist = 'a'\nany = [1, 'b']\nlabels.x.y = 3\nport = '80'",
        &[
            "f:3:15: plugins.\"acme.thing.v1.x\".nested.flag must be true or false, not an integer",
            "f:4:8: plugins.\"acme.thing.v1.x\".list must be a list of strings, not a string",
        ],
    );
}

#[test]
fn values_that_cannot_be_meant_are_found() {
    problems(
        "version = 7\nroot = 'a'\n",
        &[
            "f:1:11: configuration version 7 is not known; use 1 to 4",
            "f:2:8: root: must be an absolute path, not \"a\"",
        ],
    );
    problems(
        "version = 2\nroot = '/a'\nstate = '/a'",
        &["f:3:9: root and state must be different directories, both are \"/a\""],
    );
    problems(
        "version = 2\n[timeouts]\nx = '5'\n[dynamic_plugins.a]\nisolation = 'proces'\nsha256 = 'ab'",
        &[
            "f:3:5: timeouts.x: missing unit in duration \"5\": use ns, us, ms, s, m or h",
            "f:5:13: dynamic_plugins.a.isolation: must be one of none, process, not \"proces\"; did you mean \"process\"?",
            "f:6:10: dynamic_plugins.a.sha256: must be 64 hexadecimal digits, not \"ab\"",
        ],
    );
    let found = check(
        "version = 2\n[plugins.'acme.thing.v1.x']\ninterval = '5 s'",
        "f",
        &known(),
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, ProblemKind::BadValue);
    problems(
        "version = 2\ndisabled_plugins = ['cri', 'io.containerd.cri']",
        &[
            "f:2:28: disabled_plugins: \"io.containerd.cri\" names no plugin; write a URI as \"io.containerd.snapshotter.v1.overlayfs\"",
        ],
    );
}

#[test]
fn syntax_errors_have_their_place() {
    let found = check("version = 2\nroot = = 3\n", "f", &known());
    assert_eq!(
        (found[0].line, found[0].column, found[0].kind),
        (2, 8, ProblemKind::Syntax)
    );
}

#[test]
fn columns_count_characters() {
    problems(
        "version = 2\ntemp = 'äö'\n'ä' = 1",
        &["f:3:1: unknown key \"ä\" at the top level"],
    );
}

#[test]
fn free_names_are_free_where_containerd_lets_them_be() {
    problems(
        "version = 2\n[proxy_plugins.anything]\ntype = 'snapshot'\nexports.root = '/x'\n[timeouts]\nmine = '1s'\n\
         [plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r.io:5000'.tls]\nca_file = 'x'\n\
         [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.kata]\nruntime_type = 'x'\noptions.Whatever = 3\n",
        &[],
    );
    problems(
        "version = 2\n[proxy_plugins.a]\ntyp = 'snapshot'\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.kata]\nruntime_typ = 'x'",
        &[
            "f:3:1: unknown key \"typ\" in [proxy_plugins.a]; did you mean \"type\"?",
            "f:5:1: unknown key \"runtime_typ\" in [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]; did you mean \"runtime_type\"?",
        ],
    );
}

#[test]
fn version_4_has_no_keys_of_the_undivided_cri() {
    let cri = "[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'x'";
    problems(&format!("version = 2\n{cri}"), &[]);
    assert_eq!(check(&format!("version = 4\n{cri}"), "f", &known()).len(), 1);
}
