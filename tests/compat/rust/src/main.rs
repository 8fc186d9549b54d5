// A worker on the published Rust SDK that a test steers by JSON lines on stdin: what agent.py does, for calls alone.
// usage: agent PREFIX   (the engine's URL comes in III_URL)

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iii_sdk::{
    register_worker, FunctionRef, IIIError, InitOptions, RegisterFunctionMessage, RegisterTriggerInput, TriggerAction,
    TriggerRequest, Value, WorkerMetadata, III,
};
use serde_json::json;

type Records = Arc<Mutex<HashMap<String, Vec<Value>>>>;

struct Agent {
    worker: III,
    prefix: String,
    records: Records,
    refs: Mutex<HashMap<String, FunctionRef>>,
}

async fn behave(behaviour: Value, id: String, prefix: String, records: Records, data: Value) -> Result<Value, IIIError> {
    match behaviour["do"].as_str().unwrap_or("echo") {
        "echo" => Ok(data),
        "fail" => match behaviour["code"].as_str() {
            None => Err(IIIError::Handler(format!("handler of {prefix} failed"))),
            Some(code) => Err(IIIError::Remote {
                code: code.to_string(),
                message: format!("handler of {prefix} failed"),
                stacktrace: None,
            }),
        },
        "slow" => {
            tokio::time::sleep(Duration::from_millis(data["ms"].as_u64().unwrap_or(0))).await;
            Ok(json!({"slept": data["ms"], "tag": data["tag"]}))
        }
        "record" => {
            records.lock().unwrap().entry(id).or_default().push(json!({"data": data}));
            match behaviour["fail"].as_bool() {
                Some(true) => Err(IIIError::Handler(format!("handler of {prefix} failed"))),
                _ => Ok(behaviour["result"].clone()),
            }
        }
        other => Err(IIIError::Handler(format!("unknown behaviour {other}"))),
    }
}

impl Agent {
    fn register(&self, id: &str, request: &Value) {
        let mut message = RegisterFunctionMessage::with_id(id.to_string());
        message.description = request["description"].as_str().map(str::to_string);
        message.metadata = request.get("metadata").cloned();
        let (behaviour, prefix, records) = (request.clone(), self.prefix.clone(), self.records.clone());
        let own_id = id.to_string();
        let made = self.worker.register_function_with(message, move |data: Value| {
            behave(behaviour.clone(), own_id.clone(), prefix.clone(), records.clone(), data)
        });
        self.refs.lock().unwrap().insert(id.to_string(), made);
    }

    async fn serve(&self, request: Value) -> Result<Value, IIIError> {
        let text = |key: &str| request[key].as_str().unwrap_or_default().to_string();
        match text("op").as_str() {
            "call" => {
                let mut action = request["queue"].as_str().map(|queue| TriggerAction::Enqueue { queue: queue.to_string() });
                if request["void"].as_bool() == Some(true) {
                    action = Some(TriggerAction::Void);
                }
                let call = TriggerRequest {
                    function_id: text("function_id"),
                    payload: request["payload"].clone(),
                    action,
                    timeout_ms: request["timeout_ms"].as_u64().or(Some(10_000)),
                };
                self.worker.trigger(call).await
            }
            "function" => {
                self.register(&text("id"), &request);
                Ok(Value::Null)
            }
            "unfunction" => {
                if let Some(made) = self.refs.lock().unwrap().remove(&text("id")) {
                    made.unregister();
                }
                Ok(Value::Null)
            }
            "bind" => {
                self.worker.register_trigger(RegisterTriggerInput {
                    trigger_type: text("type"),
                    function_id: text("function_id"),
                    config: request["config"].clone(),
                    metadata: request.get("metadata").cloned(),
                })?;
                Ok(Value::Null)
            }
            "seen" => Ok(json!(self.records.lock().unwrap().get(&text("id")).cloned().unwrap_or_default())),
            other => Err(IIIError::Handler(format!("unknown op {other}"))),
        }
    }
}

fn described(error: IIIError) -> Value {
    match error {
        IIIError::Remote { code, message, stacktrace } => json!({"code": code, "message": message, "stacktrace": stacktrace}),
        IIIError::Timeout => json!({"code": "TIMEOUT", "message": "invocation timed out", "stacktrace": null}),
        other => json!({"code": "IIIError", "message": other.to_string(), "stacktrace": null}),
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let prefix = std::env::args().nth(1).expect("a prefix");
    let url = std::env::var("III_URL").expect("III_URL");
    let metadata = WorkerMetadata { name: prefix.clone(), ..WorkerMetadata::default() };
    let options = InitOptions { metadata: Some(metadata), ..InitOptions::default() };
    let agent = Arc::new(Agent {
        worker: register_worker(&url, options),
        prefix: prefix.clone(),
        records: Records::default(),
        refs: Mutex::default(),
    });
    for behaviour in ["echo", "fail", "slow", "record"] {
        agent.register(&format!("{prefix}::{behaviour}"), &json!({"do": behaviour}));
    }
    agent.register(&format!("{prefix}::keyless"), &json!({"do": "record", "result": {"anything": 1}}));
    let route = json!({"op": "bind", "type": "http", "function_id": format!("{prefix}::keyless"),
        "config": {"api_path": format!("{prefix}/keyless"), "http_method": "GET"}});
    agent.serve(route).await.expect("the route is bound");

    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel::<String>();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    while let Some(line) = lines.recv().await {
        let request: Value = serde_json::from_str(&line).expect("a line of JSON");
        let agent = agent.clone();
        tokio::spawn(async move {
            let number = request["n"].as_u64().expect("a number");
            let answer = match agent.serve(request).await {
                Ok(result) => format!("{{\"n\": {number}, \"result\": {result}}}\n"),
                Err(error) => format!("{{\"n\": {number}, \"error\": {}}}\n", described(error)),
            };
            let _ = std::io::stdout().lock().write_all(answer.as_bytes());
        });
    }
    agent.worker.shutdown();
}
