// Values that views subscribe to, and what the browser keeps of them.
import { useLayoutEffect, useReducer, useRef } from "../vendor/htm-preact.js";

export function createStore(initial) {
  let state = initial;
  const listeners = new Set();
  return {
    get: () => state,
    set(patch) {
      state = { ...state, ...(typeof patch === "function" ? patch(state) : patch) };
      for (const listener of [...listeners]) listener();
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

// The selected part of a store. The view renders again only when that part is another value. It subscribes before the
// browser does anything else, so that no change is missed or waits for a frame.
export function useStore(store, select = (state) => state) {
  const [, update] = useReducer((count) => count + 1, 0);
  const latest = useRef();
  const selected = select(store.get());
  latest.current = { select, selected };
  useLayoutEffect(() => {
    const check = () => Object.is(latest.current.select(store.get()), latest.current.selected) || update();
    check();
    return store.subscribe(check);
  }, [store]);
  return selected;
}

// In "localStorage" or, for this tab alone, in "sessionStorage". Where these are full or refused, the page does without.
export function recall(area, name, otherwise) {
  try {
    return JSON.parse(window[area].getItem(`imagegen-${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

// Whether it is kept.
export function keep(area, name, value) {
  try {
    window[area].setItem(`imagegen-${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
