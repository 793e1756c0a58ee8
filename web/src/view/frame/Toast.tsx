/** A line for what can be undone; it goes after eight seconds. */

import { useWords } from "../../words";
import { useUi } from "../ui";

export function Toast() {
  const words = useWords();
  const { toast, showToast } = useUi();
  return (
    <div role="status" className={toast ? "toast" : "vh"}>
      {toast?.text}
      {toast?.undo && (
        <button
          type="button"
          className="btn"
          onClick={() => {
            toast.undo?.();
            showToast(null);
          }}
        >
          {words.undo}
        </button>
      )}
    </div>
  );
}
