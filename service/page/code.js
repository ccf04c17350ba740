// The same request as a program writes it. The key never appears: a variable stands for it.

const pageAddress = () => location.href.replace(/[?#].*/, "");

function drawCode() {
  $("code").textContent = curl(new URL(route(), pageAddress()), body());
}

function curl(address, sent) {
  const quoted = JSON.stringify(sent, null, 1).replace(/\n\s*/g, " ").replaceAll("'", "'\\''");
  const key = $("key").value ? " \\\n  -H 'Authorization: Bearer '\"$KEY\"" : "";
  return `curl ${address} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${quoted}'`;
}
