import java.net.URI;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import javax.security.auth.callback.Callback;
import javax.security.auth.callback.UnsupportedCallbackException;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallback;

/**
 * What Amazon MSK does with a client's IAM token, for one identity: the token is a presigned request for
 * kafka-cluster:Connect, of which host, expiry and SigV4 signature are checked (AWS General Reference, "Signature Version 4").
 */
public final class IamHandler implements AuthenticateCallbackHandler {
    private static final String KEY = "hotbook-tests", SECRET = "hotbook-tests-secret", REGION = "us-east-1";
    private static final String HOST = "kafka." + REGION + ".amazonaws.com";
    /** Tokens are good for 15 minutes; here they must be younger, so that who does not renew them is turned away. */
    private static final int AGE_MAX_S = 10;
    private static final DateTimeFormatter DATE = DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'").withZone(ZoneOffset.UTC);

    @Override
    public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> entries) {}

    @Override
    public void close() {}

    @Override
    public void handle(Callback[] callbacks) throws UnsupportedCallbackException {
        for (Callback callback : callbacks) {
            if (!(callback instanceof OAuthBearerValidatorCallback validator)) throw new UnsupportedCallbackException(callback);
            try {
                validator.token(checked(validator.tokenValue()));
            } catch (Exception e) {
                System.out.println("IAM refused: " + e.getMessage());
                validator.error("invalid_token", null, null);
            }
        }
    }

    private static OAuthBearerToken checked(String token) throws Exception {
        URI url = URI.create(new String(Base64.getUrlDecoder().decode(token), StandardCharsets.UTF_8));
        TreeMap<String, String> query = new TreeMap<>();
        for (String pair : url.getRawQuery().split("&")) {
            String[] parts = pair.split("=", 2);
            query.put(decoded(parts[0]), decoded(parts[1]));
        }
        String signature = query.remove("X-Amz-Signature"), at = query.get("X-Amz-Date");
        // It is added after signing.
        query.remove("User-Agent");
        String scope = at.substring(0, 8) + "/" + REGION + "/kafka-cluster/aws4_request";
        must(url.getHost().equals(HOST), "host");
        must("kafka-cluster:Connect".equals(query.get("Action")), "action");
        must((KEY + "/" + scope).equals(query.get("X-Amz-Credential")), "key or scope");
        long signedAt = Instant.from(DATE.parse(at)).toEpochMilli(), now = System.currentTimeMillis();
        long goodUntil = signedAt + 1000 * Math.min(AGE_MAX_S, Long.parseLong(query.get("X-Amz-Expires")));
        must(signedAt < now + 5_000 && now < goodUntil, "expired, it is of " + at);

        String canonicalQuery = query.entrySet().stream()
            .map(e -> encoded(e.getKey()) + "=" + encoded(e.getValue())).collect(Collectors.joining("&"));
        String request = "GET\n/\n" + canonicalQuery + "\nhost:" + HOST + "\n\nhost\n" + hex(sha256(""));
        String toSign = "AWS4-HMAC-SHA256\n" + at + "\n" + scope + "\n" + hex(sha256(request));
        byte[] key = ("AWS4" + SECRET).getBytes(StandardCharsets.UTF_8);
        for (String part : scope.split("/")) key = hmac(key, part);
        must(hex(hmac(key, toSign)).equals(signature), "signature");
        System.out.println("IAM let in: a token of " + at + ", " + signature.substring(0, 8));
        return new Token(token, signedAt, goodUntil);
    }

    private record Token(String value, long signedAt, long goodUntil) implements OAuthBearerToken {
        public Set<String> scope() { return Set.of(); }
        public long lifetimeMs() { return goodUntil; }
        public String principalName() { return KEY; }
        public Long startTimeMs() { return signedAt; }
    }

    private static void must(boolean so, String what) {
        if (!so) throw new IllegalArgumentException(what);
    }

    private static String decoded(String text) { return URLDecoder.decode(text, StandardCharsets.UTF_8); }

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20").replace("*", "%2A").replace("%7E", "~");
    }

    private static byte[] sha256(String text) throws Exception {
        return MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
    }

    private static byte[] hmac(byte[] key, String text) throws Exception {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String hex(byte[] bytes) { return HexFormat.of().formatHex(bytes); }
}
