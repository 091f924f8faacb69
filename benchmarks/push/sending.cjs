// One run of web-push from npm; see sending.py. Prints what it took.
const [modules, ca, port, pushes, warmUp, inFlight, payload] = process.argv.slice(2);
const fs = require("node:fs");
const https = require("node:https");
const crypto = require("node:crypto");
const webpush = require(`${modules}/web-push`);

const agent = new https.Agent({ keepAlive: true, maxSockets: Number(inFlight), ca: fs.readFileSync(ca) });
const keys = webpush.generateVAPIDKeys();
webpush.setVapidDetails("mailto:push@example.org", keys.publicKey, keys.privateKey);
const subscriptions = Array.from({ length: 200 }, (_, number) => {
  const browser = crypto.createECDH("prime256v1");
  browser.generateKeys();
  return {
    endpoint: `https://127.0.0.1:${port}/push/${String(number).padStart(100, "0")}`,
    keys: { p256dh: browser.getPublicKey("base64url"), auth: crypto.randomBytes(16).toString("base64url") },
  };
});

async function some(count) {
  let next = 0;
  const oneAfterAnother = async () => {
    while (next < count) {
      const answer = await webpush.sendNotification(subscriptions[next++ % 200], payload, { TTL: 60, agent });
      if (answer.statusCode !== 201) throw new Error(`status ${answer.statusCode}`);
    }
  };
  await Promise.all(Array.from({ length: Number(inFlight) }, oneAfterAnother));
}

(async () => {
  await some(Number(warmUp));
  const wall = performance.now();
  const cpu = process.cpuUsage();
  await some(Number(pushes));
  const used = process.cpuUsage(cpu);
  const ran = { pushes: Number(pushes), cpu: (used.user + used.system) / 1e6, wall: (performance.now() - wall) / 1e3 };
  console.log(JSON.stringify(ran));
  agent.destroy();
})();
