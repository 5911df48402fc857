//! Many callers at the same time.

use futures_util::future::join_all;

use super::super::{Outcome, Suite, same};
use super::{Kit, Names};
use crate::contract::Code;

/// How many call at once.
const CALLERS: usize = 16;

pub(super) async fn run(kit: &Kit, suite: &mut Suite) {
    suite
        .check("of many who want one key, one gets it", race(kit, Names("race")))
        .await;
    suite
        .check("many work side by side", together(kit, Names("together")))
        .await;
}

async fn race(kit: &Kit, names: Names) -> Outcome {
    let (base, key) = (names.of("base"), names.of("key"));
    kit.layer(&base, "", &[]).await?;
    let results = join_all((0..CALLERS).map(|_| kit.prepare(&key, &base))).await;
    same(
        "the number of winners",
        results.iter().filter(|result| result.is_ok()).count(),
        1,
    )?;
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        same("the code of a loser", error.code, Code::AlreadyExists)?;
    }
    kit.remove_all(&[&key, &base]).await
}

async fn together(kit: &Kit, names: Names) -> Outcome {
    let base = names.of("base");
    kit.layer(&base, "", &[]).await?;
    let lives = (0..CALLERS).map(|i| {
        let (key, name) = (names.of(&format!("key-{i}")), names.of(&format!("name-{i}")));
        let base = &base;
        async move {
            kit.prepare(&key, base).await?;
            kit.commit(&name, &key).await?;
            kit.view(&key, &name).await?;
            kit.remove(&key).await?;
            kit.remove(&name).await
        }
    });
    for result in join_all(lives).await {
        result?;
    }
    kit.remove_all(&[&base]).await
}
