//! my-worker: greets people, and counts the minutes.

use std::error::Error;
use std::future::Future;

use iii_sdk::builtin_triggers::{CronTriggerConfig, HttpMethod, HttpTriggerConfig};
use iii_sdk::{
    register_worker, IIIError, IIITrigger, InitOptions, RegisterFunctionMessage, TriggerRequest,
    Value, WorkerMetadata, III,
};
use serde_json::json;
use tokio::signal::unix::{signal, SignalKind};

const INVALID_INPUT: &str = "INVALID_INPUT";

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("III_URL").unwrap_or_else(|_| "ws://127.0.0.1:49134".to_string());
    let metadata = WorkerMetadata {
        name: "my-worker".to_string(),
        ..WorkerMetadata::default()
    };
    let options = InitOptions {
        metadata: Some(metadata),
        ..InitOptions::default()
    };
    let bus = register_worker(&url, options);

    // JSON Schemas are for those who look for a function; what a call brings, the function checks.
    let who = json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 100 } },
        "required": ["name"],
    });
    register(
        &bus,
        "my-worker::greet",
        "Greets somebody by name.",
        Some(who),
        |_, input| greet(input),
    );
    register(
        &bus,
        "my-worker::count",
        "Counts one minute more.",
        None,
        |bus, _| count(bus),
    );
    register(
        &bus,
        "my-worker::total",
        "Says how many minutes were counted so far.",
        None,
        |bus, _| total(bus),
    );

    let greet_route = HttpTriggerConfig::new("my-worker/greet").method(HttpMethod::Post);
    let total_route = HttpTriggerConfig::new("my-worker/total").method(HttpMethod::Get);
    let every_minute = CronTriggerConfig::new("0 * * * * *"); // second 0 of every minute
    bus.register_trigger(IIITrigger::Http(greet_route).for_function("my-worker::greet"))?;
    bus.register_trigger(IIITrigger::Http(total_route).for_function("my-worker::total"))?;
    bus.register_trigger(IIITrigger::Cron(every_minute).for_function("my-worker::count"))?;

    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    bus.shutdown();
    Ok(())
}

async fn greet(input: Value) -> Result<Value, IIIError> {
    match input["name"].as_str() {
        Some(name) if (1..=100).contains(&name.chars().count()) => {
            Ok(json!({ "message": format!("Hello, {name}!") }))
        }
        _ => Err(IIIError::Remote {
            code: INVALID_INPUT.to_string(),
            message: "name: must be a text of 1 to 100 characters".to_string(),
            stacktrace: None,
        }),
    }
}

async fn count(bus: III) -> Result<Value, IIIError> {
    // One operation of the engine, not a read and a write: no count is lost when two calls meet.
    let one_more = json!({ "type": "increment", "path": "total", "by": 1 });
    let changed = call(
        &bus,
        "state::update",
        json!({ "scope": "my-worker", "key": "minutes", "ops": [one_more] }),
    )
    .await?;
    Ok(json!({ "minutes": changed["new_value"]["total"] }))
}

async fn total(bus: III) -> Result<Value, IIIError> {
    // The engine keeps the value: it outlives the worker, and all replicas see the same one.
    let kept = call(
        &bus,
        "state::get",
        json!({ "scope": "my-worker", "key": "minutes" }),
    )
    .await?;
    Ok(json!({ "minutes": kept["total"].as_i64().unwrap_or(0) }))
}

async fn call(bus: &III, function_id: &str, payload: Value) -> Result<Value, IIIError> {
    let request = TriggerRequest {
        function_id: function_id.to_string(),
        payload,
        action: None,
        timeout_ms: Some(5_000),
    };
    bus.trigger(request).await
}

/// Registers a function that can also be bound to an HTTP route. A request by HTTP arrives as an envelope, with its JSON
/// in `body`, and is answered with a status; any other call has the bare input and gets the bare result.
fn register<H, F>(
    bus: &III,
    function_id: &str,
    description: &str,
    request_format: Option<Value>,
    handler: H,
) where
    H: Fn(III, Value) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Result<Value, IIIError>> + Send + 'static,
{
    let mut message = RegisterFunctionMessage::with_id(function_id.to_string())
        .with_description(description.to_string());
    message.request_format = request_format;
    let client = bus.clone();
    bus.register_function_with(message, move |data: Value| {
        let bus = client.clone();
        async move {
            if data["trigger"]["type"] != "http" {
                return handler(bus, data).await;
            }
            match handler(bus, data["body"].clone()).await {
                Ok(body) => Ok(json!({ "status_code": 200, "body": body })),
                Err(IIIError::Remote { code, message, .. }) if code == INVALID_INPUT => {
                    Ok(json!({ "status_code": 400, "body": { "error": { "code": code, "message": message } } }))
                }
                Err(error) => Err(error),
            }
        }
    });
}
