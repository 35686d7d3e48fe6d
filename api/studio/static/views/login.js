// Asks for an API key where the service needs one. The key stays in this tab.
import { html, useLayoutEffect, useRef, useState } from "../vendor/htm-preact.js";
import { logIn, session } from "../state/api.js";
import { useStore } from "../state/store.js";

export function Login({ onLogin }) {
  const { error } = useStore(session);
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const field = useRef();
  useLayoutEffect(() => field.current.focus(), []);
  const onSubmit = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await logIn(new FormData(event.target).get("key").trim());
      onLogin();
    } catch (failure) {
      setProblem(failure.status === 401 ? "The service does not accept this key." : failure.message);
    } finally {
      setBusy(false);
    }
  };
  return html`<main class="login">
    <form onSubmit=${onSubmit}>
      <h1>imagegen</h1>
      <label for="key">API key</label>
      <input id="key" name="key" type="password" required autocomplete="current-password" ref=${field} aria-describedby="key-help" />
      <p id="key-help" class="hint">Your operator has it (<code>SD_API_KEY</code>). It is kept in this tab only, until you close it.</p>
      ${(problem || error) && html`<p role="alert" class="problem">${problem || error}</p>`}
      <button type="submit" class="primary" disabled=${isBusy}>Log in</button>
    </form>
  </main>`;
}
