//! Hears what is published: nudges, and what brokers announce. It has a connection of its own, and nothing rests on it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::{ProtocolVersion, PushInfo, PushKind, Value};
use tokio::time::Instant;

use super::Context;
use super::keeper;
use crate::store::news::News;

/// How long to wait before subscribing again, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often to ask whether the connection still leads somewhere. One that lasted for longer than this is replaced without delay.
const WATCH: Duration = Duration::from_secs(1);

/// Listens for ever, and subscribes again whenever the connection ends.
pub(super) async fn listen(context: Arc<Context>, news: Arc<News>) {
    let mut back_off = BACK_OFF.0;
    let mut said = String::new();
    loop {
        let since = Instant::now();
        let Err(why) = attend(&context, &news).await;
        if since.elapsed() > WATCH {
            back_off = BACK_OFF.0;
        }
        if why != said {
            tracing::warn!(%why, "what other brokers write and announce is not heard until the store is there again");
            said = why;
        }
        tokio::time::sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF.1);
    }
}

/// Subscribes, and stays until the connection ends.
async fn attend(context: &Context, news: &Arc<News>) -> Result<Infallible, String> {
    let channels = [context.names.nudges(), context.names.announcements()];
    let (heard, announcements) = (Arc::clone(news), channels[1].clone());
    let config = keeper::lane_config().set_push_sender(move |push: PushInfo| {
        hear(&heard, &announcements, &push);
        Ok::<_, Infallible>(())
    });
    let limit = context.options.step_timeout;
    let late = || "no answer in time".to_owned();
    let subscribed = async {
        let live = keeper::single(context, ProtocolVersion::RESP3, config).await?;
        let mut lane = live.lane().ok_or("there is no connection")?;
        lane.subscribe(&channels).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(live)
    };
    let live = tokio::time::timeout(limit, subscribed).await.map_err(|_| late())??;
    // What was published before this is lost.
    news.nudge();
    loop {
        tokio::select! {
            () = live.ended() => return Err("the connection ended".to_owned()),
            () = tokio::time::sleep(WATCH) => {}
        }
        let mut lane = live.lane().ok_or("there is no connection")?;
        let ping = redis::cmd("PING");
        let answered = tokio::time::timeout(limit, lane.send_packed_command(&ping)).await;
        answered.map_err(|_| late())?.map_err(|e| e.to_string())?;
    }
}

fn hear(news: &News, announcements: &str, push: &PushInfo) {
    let [Value::BulkString(channel), Value::BulkString(message)] = push.data.as_slice() else { return };
    match push.kind {
        PushKind::Message if channel == announcements.as_bytes() => news.announced(message),
        PushKind::Message => news.nudge(),
        _ => {}
    }
}
