//! Run with `agentos test .`: the worker runs, and this connects to its engine, whose clock only the test moves.

use iii_sdk::{register_worker, IIIError, InitOptions, TriggerRequest, Value, III};
use serde_json::json;

fn client() -> III {
    register_worker(
        &std::env::var("III_URL").expect("III_URL; run `agentos test .`"),
        InitOptions::default(),
    )
}

async fn call(client: &III, function_id: &str, payload: Value) -> Result<Value, IIIError> {
    let request = TriggerRequest {
        function_id: function_id.to_string(),
        payload,
        action: None,
        timeout_ms: Some(10_000),
    };
    client.trigger(request).await
}

#[tokio::test]
async fn greets_by_name() {
    let reply = call(&client(), "my-worker::greet", json!({ "name": "Ada" }))
        .await
        .unwrap();
    assert_eq!(reply, json!({ "message": "Hello, Ada!" }));
}

#[tokio::test]
async fn refuses_a_greeting_without_a_name() {
    let error = call(&client(), "my-worker::greet", json!({}))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("name: must be a text"),
        "{error}"
    );
}

#[tokio::test]
async fn counts_the_minutes() {
    let client = client();
    let before = call(&client, "my-worker::total", json!({})).await.unwrap();
    call(&client, "engine::clock::advance", json!({ "seconds": 180 }))
        .await
        .unwrap();
    let after = call(&client, "my-worker::total", json!({})).await.unwrap();
    assert_eq!(
        after["minutes"].as_i64().unwrap(),
        before["minutes"].as_i64().unwrap() + 3
    );
}
