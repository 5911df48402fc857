use super::*;
use proptest::prelude::*;

struct Entry {
    name: &'static str,
    other: &'static str,
    labels: Labels,
}

fn entry(name: &'static str, other: &'static str, labels: &[(&str, &str)]) -> Entry {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Entry { name, other, labels }
}

fn corpus() -> Vec<Entry> {
    vec![
        entry("foo", "", &[("foo", "true")]),
        entry("bar", "", &[]),
        entry("foo", "", &[("foo", "present"), ("two words", "present")]),
        entry("bar", "", &[("bar", "true")]),
        entry("fooer", "", &[("back\\slash and \"quote\"", "present")]),
        entry("fooer", "", &[("with.dots/and.slash", "present")]),
        entry("baz", "too complex, yo", &[]),
        entry("bazo", "abc", &[]),
        entry("compound", "", &[("foo", "omg_asdf.asdf-qwer")]),
    ]
}

fn matching(filters: &[&str]) -> Vec<usize> {
    let filters = Filters::parse(filters).expect("a valid filter");
    corpus()
        .iter()
        .enumerate()
        .filter(|(_, entry)| {
            filters.matches(|path| match path {
                ["name"] => non_empty(entry.name),
                ["other"] => non_empty(entry.other),
                ["labels", key @ ..] => label(&entry.labels, key),
                _ => None,
            })
        })
        .map(|(i, _)| i)
        .collect()
}

#[track_caller]
fn refused(filter: &str, message: &str) {
    let error = Filters::parse(&[filter]).expect_err("an invalid filter");
    assert_eq!(error.code, crate::contract::Code::InvalidArgument);
    assert_eq!(error.message, message);
}

#[test]
fn selectors_choose_as_containerd_does() {
    let all: Vec<usize> = (0..9).collect();
    for (filter, expected) in [
        ("", all.as_slice()),
        ("name", &all),
        ("labels.foo", &[0, 2, 8]),
        ("labels.foo,name", &[0, 2, 8]),
        ("labels.foo==true", &[0]),
        ("labels.foo==omg_asdf.asdf-qwer", &[8]),
        ("name==bar", &[1, 3]),
        ("name == bar", &[1, 3]),
        ("name!=bar", &[0, 2, 4, 5, 6, 7, 8]),
        ("other!=abc", &[0, 1, 2, 3, 4, 5, 6, 8]),
        ("name==bar,labels.bar", &[3]),
        ("other==\"too complex, yo\"", &[6]),
        ("other~=[abc]+,name!=foo", &[6, 7]),
        ("other~=/[abc]+/,name!=foo", &[6, 7]),
        ("other~=|[abc]{1,2}|,name!=foo", &[6, 7]),
        ("other~=/[abc]{0,1}\"\\//,name!=foo", &[]),
        ("name~=^ba,name~=z", &[6, 7]),
        ("name==bar,labels.bar==wrong", &[]),
        ("labels.\"two words\"", &[2]),
        (r#"labels."back\\slash and \"quote\""==present"#, &[4]),
        ("labels.with.\"dots/and\".slash", &[5]),
        ("nothing", &[]),
        ("nothing!=x", &all),
    ] {
        assert_eq!(matching(&[filter]), expected, "{filter}");
    }
}

#[test]
fn several_filters_are_alternatives_and_none_matches_all() {
    assert_eq!(matching(&["name==bar", "name==baz"]), [1, 3, 6]);
    assert_eq!(matching(&[]).len(), 9);
    assert_eq!(matching(&["name==bar", ""]).len(), 9);
}

#[test]
fn escapes_are_gos() {
    let filters = Filters::parse(&[r#"x=="\x41\102\u00e9\U0001F600\n\t""#]).expect("valid");
    assert!(filters.matches(|_| Some("AB\u{e9}\u{1F600}\n\t")));
    assert!(!filters.matches(|_| None::<&str>));
}

#[test]
fn mistakes_are_marked_where_they_are() {
    refused(
        "labels.|foo|==omg",
        "filters: parse error: [labels. >|||< foo|==omg]: invalid quote encountered",
    );
    refused(
        "labels.?\"a\"==b",
        "filters: parse error: [labels. >|?|< \"a\"==b]: expected field or quoted",
    );
    refused(
        "name==foo,",
        "filters: parse error: [name==foo,]: expected field or quoted",
    );
    refused("labels.", "filters: parse error: [labels.]: expected field or quoted");
    refused(
        "image~=,id?=?fbaq",
        "filters: parse error: [image~= >|,|< id?=?fbaq]: expected value or quoted",
    );
    refused(
        "labels.ns/key==value",
        "filters: parse error: [labels.ns >|/|< key==value]: quoted literal not terminated",
    );
    refused(
        "name===x",
        "filters: parse error: [name >|=|< ==x]: unsupported operator \"===\"",
    );
    refused(
        r#"name=="\q""#,
        r#"filters: parse error: [name== >|"|< \q"]: unquoting failed: illegal escape sequence"#,
    );
    refused(
        "name==a b",
        "filters: parse error: [name==a >| |< b]: unexpected input:  ",
    );
    for bad in ["name~=(", "\"", "a==\"\\", "a==\"\\777\"", "\0", "a=b"] {
        assert!(Filters::parse(&[bad]).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn nothing_makes_the_parser_panic(filter in "[a-z.,=!~\"/|\\\\ äx0-9\n]{0,24}") {
        if let Ok(filters) = Filters::parse(&[filter]) {
            filters.matches(|_| Some("a"));
        }
    }

    #[test]
    fn a_quoted_value_is_itself(value in "\\PC{0,16}") {
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
        let filters = Filters::parse(&[format!("x==\"{quoted}\"")]).expect("quoted well");
        prop_assert!(filters.matches(|_| Some(value.as_str())));
    }
}
