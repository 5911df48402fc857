use super::*;

#[track_caller]
fn problems(text: &str, expected: &[&str]) {
    let known = PluginTables::from([(
        "acme.thing.v1.x".to_owned(),
        "interval = '5s'\nport = '0'\nlist = ['a']\n[labels]\n[nested]\nflag = true".parse().unwrap(),
    )]);
    let found: Vec<_> = check(text, "f", &known).iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
}
