//! Where a call may go, and where it may be led.

use crate::far::{Asked, Far, client, limits};
use perigee_outbound::{Guard, Outbound, OutboundError};

#[tokio::test]
async fn a_private_address_is_not_even_connected_to() {
    let far = Far::new(|mut asked: Asked| async move {
        _ = asked.head("200 OK", &["content-length: 0"]).await;
    })
    .await;
    let strict = Outbound::new(Guard::default(), limits());
    for address in [
        far.url("/"),
        format!("http://localhost:{}/", far.at.port()),
        format!("http://[::ffff:127.0.0.1]:{}/", far.at.port()),
    ] {
        let refused = strict.get(&address).await.unwrap_err();
        assert!(matches!(refused, OutboundError::Forbidden { .. }), "{address}: {refused}");
    }
    let refused = strict.get("http://169.254.169.254/latest/meta-data/").await.unwrap_err();
    assert!(refused.to_string().contains("clouds keep their metadata"), "{refused}");
    assert!(far.heads().is_empty());
    client().get(&far.url("/")).await.unwrap();
    assert_eq!(far.heads().len(), 1);
}

#[tokio::test]
async fn each_redirect_is_an_address_like_any_other() {
    let far = Far::new(|mut asked: Asked| async move {
        let path = asked.head.split_whitespace().nth(1).unwrap().to_owned();
        let to = match path.as_str() {
            "/near" => "location: on",
            "/metadata" => "location: http://169.254.169.254/latest/meta-data/",
            "/inside" => "location: //10.0.0.7/x",
            "/file" => "location: file:///etc/shadow",
            "/user" => "location: http://root:secret@127.0.0.1/",
            "/nowhere" => "x: y",
            "/garbage" => "location: http://[/",
            "/round" => "location: /round",
            _ => {
                asked.head("200 OK", &["content-length: 2"]).await;
                asked.say("ok").await;
                return;
            }
        };
        asked.head("302 Found", &[to, "content-length: 0"]).await;
    })
    .await;
    let get = async |path: &str| client().get(&far.url(path)).await;
    let mut answer = get("/near").await.unwrap();
    assert_eq!(answer.from.path(), "/on");
    assert_eq!(answer.next().await.unwrap().unwrap(), "ok");
    assert!(matches!(get("/metadata").await, Err(OutboundError::Forbidden { .. })));
    assert!(matches!(get("/inside").await, Err(OutboundError::Forbidden { .. })));
    assert!(matches!(get("/file").await, Err(OutboundError::BadAddress(_))));
    assert!(matches!(get("/user").await, Err(OutboundError::BadAddress(_))));
    assert!(matches!(get("/nowhere").await, Err(OutboundError::Strange { .. })));
    assert!(matches!(get("/garbage").await, Err(OutboundError::Strange { .. })));
    let before = far.heads().len();
    assert!(matches!(get("/round").await, Err(OutboundError::TooManyRedirects(5))));
    assert_eq!(far.heads().len() - before, 6);
}

#[tokio::test]
async fn a_request_says_little() {
    let far = Far::new(|mut asked: Asked| async move {
        _ = asked.head("200 OK", &["content-length: 0"]).await;
    })
    .await;
    client().get(&far.url("/a/b?c=d")).await.unwrap();
    let heads = far.heads();
    let mut lines: Vec<_> = heads[0].lines().filter(|line| !line.is_empty()).collect();
    lines[1..].sort_unstable();
    let host = format!("host: {}", far.at);
    let agent = concat!("user-agent: perigee/", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, ["GET /a/b?c=d HTTP/1.1", "accept-encoding: identity", host.as_str(), agent]);
}

#[tokio::test]
async fn a_name_that_is_nowhere_is_said_so() {
    let unresolved = client().get("http://nobody.invalid/").await.unwrap_err();
    assert!(matches!(unresolved, OutboundError::Unresolved { .. }), "{unresolved}");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let unreachable = client().get(&format!("http://{at}/")).await.unwrap_err();
    assert!(matches!(unreachable, OutboundError::Unreachable { .. }), "{unreachable}");
}
