// Asks for an API key where the service needs one. The key stays in this tab.
import { html, useLayoutEffect, useRef } from "../vendor/htm-preact.js";
import { logIn, session } from "../state/api.js";
import { useStore } from "../state/store.js";

export function Login() {
  const { error } = useStore(session);
  const field = useRef();
  useLayoutEffect(() => field.current.focus(), []);
  const onSubmit = (event) => {
    event.preventDefault();
    logIn(new FormData(event.target).get("key").trim());
  };
  return html`<main class="login">
    <form onSubmit=${onSubmit}>
      <h1>imagegen</h1>
      <label for="key">API key</label>
      <input id="key" name="key" type="password" required autocomplete="current-password" ref=${field} aria-describedby="key-help" />
      <p id="key-help" class="hint">Your operator has it (<code>SD_API_KEY</code>). It is kept in this tab only, until you close it.</p>
      ${error && html`<p role="alert" class="problem">${error}</p>`}
      <button type="submit" class="primary">Log in</button>
    </form>
  </main>`;
}
